"""Towers whose attention is not looked at: behind resamplers, inside SAM, or in front of a
codebook.
"""

from typing import Any

from torch import nn
from transformers import (
    AriaConfig,
    AriaForConditionalGeneration,
    AriaImageProcessorPil,
    AriaProcessor,
    ChameleonConfig,
    ChameleonForConditionalGeneration,
    ChameleonImageProcessorPil,
    ChameleonProcessor,
    DeepseekOcr2Config,
    DeepseekOcr2ForConditionalGeneration,
    DeepseekOcr2ImageProcessorPil,
    DeepseekOcr2Processor,
    Emu3Config,
    Emu3ForConditionalGeneration,
    Emu3Processor,
    GotOcr2Config,
    GotOcr2ForConditionalGeneration,
    GotOcr2ImageProcessorPil,
    GotOcr2Processor,
    Idefics2Config,
    Idefics2ForConditionalGeneration,
    Idefics2ImageProcessorPil,
    Idefics2Processor,
)
from transformers.models.emu3.image_processing_emu3 import Emu3ImageProcessor

from zoo.base import Tiny, family, text, vision, words
from zoo.crops import parts

SAM = {"output_channels": 8, "mlp_dim": 48, "window_size": 4}


@family
def idefics2() -> Tiny:
    tokens = words("<image>", "<fake_token_around_image>", "<end_of_utterance>")
    images = Idefics2ImageProcessorPil(
        size={"shortest_edge": 24, "longest_edge": 32}, do_image_splitting=True
    )
    perceiver = {
        "hidden_size": 32,
        "resampler_n_latents": 9,
        "resampler_depth": 1,
        "resampler_n_heads": 4,
        "resampler_head_dim": 8,
        "num_key_value_heads": 2,
    }
    tower = {"model_type": "idefics2_vision", "image_size": 32}
    config = Idefics2Config(
        **parts(tokens, "<image>", "mistral", **tower), perceiver_config=perceiver
    )
    return Tiny(
        Idefics2ForConditionalGeneration(config),
        Idefics2Processor(images, tokens, image_seq_len=9),
        "<image>",
    )


class FlatGotOcr2Processor(GotOcr2Processor):
    """Takes the images of a batch as the others do: a list for each prompt."""

    def __call__(self, images: Any = None, text: Any = None, **options: Any) -> Any:
        return super().__call__(
            [picture for pictures in images for picture in pictures], text, **options
        )


@family
def got_ocr2() -> Tiny:
    tokens = words("<img>", "</img>", "<imgpad>", "<|im_start|>", "<|im_end|>")
    processor = FlatGotOcr2Processor(
        GotOcr2ImageProcessorPil(size={"height": 64, "width": 64}), tokens
    )
    processor.images_kwargs, processor.num_image_tokens = (
        {"crop_to_patches": True, "max_patches": 4},
        16,
    )
    tower = {"image_size": 64, "global_attn_indexes": [1, 3]} | SAM
    config = GotOcr2Config(
        **parts(tokens, "<imgpad>", "qwen2", model_type="got_ocr2_vision", **tower),
        image_seq_length=16,
    )
    return Tiny(GotOcr2ForConditionalGeneration(config), processor, "<img><imgpad></img>")


@family
def aria() -> Tiny:
    tokens = words(image_token="<image>")
    images = AriaImageProcessorPil(max_image_size=490)
    processor = AriaProcessor(images, tokens, size_conversion={490: 16})
    processor.images_kwargs = {"max_image_size": 490}
    options = parts(tokens, "<image>", model_type="idefics3_vision", image_size=490, patch_size=70)
    del options["text_config"]["model_type"]
    options["text_config"] |= {"moe_num_experts": 4, "moe_topk": 2, "moe_num_shared_experts": 1}
    config = AriaConfig(**options, projector_patch_to_query_dict={49: 16})
    model = AriaForConditionalGeneration(config)
    # else all queries of its resampler see the same, and tokens differ by rounding alone
    projector = model.model.multi_modal_projector
    nn.init.normal_(projector.query)
    for weights in projector.cross_attn.parameters():
        weights.data *= 20
    return Tiny(model, processor, "<image>")


@family
def deepseek_ocr2() -> Tiny:
    tokens = words(image_token="<image>")
    images = DeepseekOcr2ImageProcessorPil(size={"height": 64, "width": 64}, tile_size=48)
    processor = DeepseekOcr2Processor(images, tokens, patch_size=1)
    processor.images_kwargs = {"crop_to_patches": True, "min_patches": 1, "max_patches": 2}
    sam = vision(
        **SAM,
        image_size=64,
        patch_size=1,
        num_hidden_layers=1,
        global_attn_indexes=[],
        downsample_channels=[16, 32],
    )
    tower = {
        "model_type": "deepseek_ocr2_vision",
        "sam_config": sam,
        "encoder_config": text(tokens),
    }
    options = parts(tokens, "<image>", "deepseek_ocr2_text", **tower)
    options["text_config"] |= {
        "n_routed_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 16,
        "n_group": 1,
        "topk_group": 1,
        "mlp_layer_types": ["dense", "sparse", "sparse"],
    }
    return Tiny(
        DeepseekOcr2ForConditionalGeneration(DeepseekOcr2Config(**options)), processor, "<image>"
    )


CODEBOOK: dict[str, Any] = {
    "embed_dim": 8,
    "num_embeddings": 16,
    "codebook_size": 16,
    "latent_channels": 8,
    "base_channels": 32,
    "num_res_blocks": 1,
    "attn_resolutions": [],
}


@family
def chameleon() -> Tiny:
    codes = [
        f"IMGIMG{''.join(chr(ord('A') + int(digit)) for digit in str(code))}Z" for code in range(16)
    ]
    tokens = words("<racm3:break>", "<eoss>", *codes, image_token="<image>", sep_token="<sep>")
    processor = ChameleonProcessor(
        ChameleonImageProcessorPil(
            size={"shortest_edge": 12}, crop_size={"height": 12, "width": 12}
        ),
        tokens,
        image_seq_length=36,
    )
    drawing = CODEBOOK | {"resolution": 12, "channel_multiplier": [1, 1]}
    config = ChameleonConfig(**text(tokens), vq_config=drawing, vocabulary_map=tokens.get_vocab())
    return Tiny(ChameleonForConditionalGeneration(config), processor, "<image>")


@family
def emu3() -> Tiny:
    codes = [f"<|visual token {code:06d}|>" for code in range(16)]
    control = {
        "image": "<image>",
        "boi": "<boi>",
        "eoi": "<eoi>",
        "image_wrapper": "<wrapper>",
        "eof": "<eof>",
    }
    tokens = words(
        "<|extra_200|>", *codes, **{f"{name}_token": token for name, token in control.items()}
    )
    processor = Emu3Processor(Emu3ImageProcessor(min_pixels=32 * 32, max_pixels=48 * 80), tokens)
    drawing = CODEBOOK | {"channel_multiplier": [1, 1, 1, 1], "hidden_size": 32}
    config = Emu3Config(
        text_config=text(tokens), vq_config=drawing, vocabulary_map=tokens.get_vocab()
    )
    return Tiny(Emu3ForConditionalGeneration(config), processor, "<image>")
