"""Towers that see square crops of one size."""

from typing import Any

import torch
from transformers import (
    AyaVisionConfig,
    AyaVisionForConditionalGeneration,
    AyaVisionProcessor,
    Cohere2VisionConfig,
    Cohere2VisionForConditionalGeneration,
    Cohere2VisionProcessor,
    DeepseekVLConfig,
    DeepseekVLForConditionalGeneration,
    DeepseekVLHybridConfig,
    DeepseekVLHybridForConditionalGeneration,
    DeepseekVLHybridImageProcessorPil,
    DeepseekVLHybridProcessor,
    DeepseekVLImageProcessorPil,
    DeepseekVLProcessor,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3ImageProcessorPil,
    Gemma3Processor,
    GotOcr2ImageProcessorPil,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3ImageProcessorPil,
    Idefics3Processor,
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLProcessor,
    JanusConfig,
    JanusForConditionalGeneration,
    JanusImageProcessorPil,
    JanusProcessor,
    Llama4Config,
    Llama4ForConditionalGeneration,
    Llama4Processor,
    Ovis2Config,
    Ovis2ForConditionalGeneration,
    Ovis2ImageProcessorPil,
    Ovis2Processor,
    PaliGemmaConfig,
    PaliGemmaForConditionalGeneration,
    PaliGemmaProcessor,
    PreTrainedTokenizerFast,
    QianfanOCRConfig,
    QianfanOCRForConditionalGeneration,
    QianfanOCRProcessor,
    SiglipImageProcessorPil,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
    SmolVLMImageProcessorPil,
)

from adafv.models.processors import images_only
from zoo.base import Tiny, family, text, vision, words
from zoo.llava import SIGLIP
from zoo.transforms import without_torchvision

EDGE = {"height": 24, "width": 24}
TILES: dict[str, Any] = {"size": EDGE, "crop_to_patches": True, "min_patches": 1, "max_patches": 4}


def parts(
    tokens: PreTrainedTokenizerFast, image: str, backbone: str = "llama", **tower: Any
) -> dict[str, Any]:
    """Options of a configuration: text backbone, tower (SigLIP unless another is described), id of
    the placeholder.
    """
    return {
        "text_config": text(tokens, model_type=backbone),
        "vision_config": vision(**(tower or SIGLIP)),
        "image_token_id": tokens.convert_tokens_to_ids(image),
    }


@family
def internvl() -> Tiny:
    tokens = words(
        start_image_token="<img>",
        end_image_token="</img>",
        context_image_token="<ctx>",
        video_token="<video>",
    )
    processor = images_only(InternVLProcessor)(
        GotOcr2ImageProcessorPil(**TILES), tokens, image_seq_length=9
    )
    config = InternVLConfig(
        **parts(tokens, "<ctx>", "qwen2", image_size=[24, 24], patch_size=[4, 4]),
        image_seq_length=9,
    )
    return Tiny(InternVLForConditionalGeneration(config), processor, "<ctx>")


@family
def qianfan_ocr() -> Tiny:
    tokens = words(
        "<image>", start_image_token="<img>", end_image_token="</img>", context_image_token="<ctx>"
    )
    processor = QianfanOCRProcessor(GotOcr2ImageProcessorPil(**TILES), tokens, image_seq_length=9)
    config = QianfanOCRConfig(**parts(tokens, "<ctx>", "qwen3", image_size=24), image_seq_length=9)
    return Tiny(QianfanOCRForConditionalGeneration(config), processor, "<image>")


@family
def gemma3() -> Tiny:
    tokens = words(boi_token="<boi>", image_token="<soft>", eoi_token="<eoi>")
    processor = Gemma3Processor(Gemma3ImageProcessorPil(size=EDGE), tokens, image_seq_length=9)
    options = parts(tokens, "<soft>", "gemma3_text")
    options["text_config"] |= {"head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 16}
    options["text_config"]["layer_types"] = [
        "sliding_attention",
        "full_attention",
        "sliding_attention",
    ]
    model = Gemma3ForConditionalGeneration(Gemma3Config(**options, mm_tokens_per_image=9))
    torch.nn.init.normal_(model.model.multi_modal_projector.mm_input_projection_weight)
    return Tiny(model, processor, "<boi>")


@family
def paligemma() -> Tiny:
    tokens = words(image_token="<image>")
    images = SiglipImageProcessorPil(size=EDGE, image_seq_length=36)
    processor = PaliGemmaProcessor(images, tokens)
    options = parts(tokens, "<image>", "gemma")
    options["text_config"] |= {"head_dim": 8}
    config = PaliGemmaConfig(**options, projection_dim=32, hidden_size=32, vocab_size=len(tokens))
    return Tiny(PaliGemmaForConditionalGeneration(config), processor, "<image>")


@family
def aya_vision() -> Tiny:
    control = (
        "<image>",
        "<|START_OF_IMG|>",
        "<|END_OF_IMG|>",
        "<|IMG_PATCH|>",
        "<|IMG_LINE_BREAK|>",
    )
    tokens = words(*control, "TILE", "TILE_GLOBAL", *(f"TILE_{i}" for i in range(1, 5)))
    options = {"patch_size": 4, "img_size": 24, "downsample_factor": 2}
    processor = AyaVisionProcessor(GotOcr2ImageProcessorPil(**TILES), tokens, **options)
    config = AyaVisionConfig(**parts(tokens, "<|IMG_PATCH|>", "cohere2"))
    return Tiny(AyaVisionForConditionalGeneration(config), processor, "<image>")


@family
def cohere2_vision() -> Tiny:
    tokens = words(
        boi_token="<boi>", eoi_token="<eoi>", image_token="<image>", img_line_break_token="<break>"
    )
    images = without_torchvision(
        "cohere2_vision.image_processing_cohere2_vision", "Cohere2VisionImageProcessor"
    )
    processor = Cohere2VisionProcessor(images(**TILES | {"max_patches": 8}, patch_size=3), tokens)
    config = Cohere2VisionConfig(
        **parts(tokens, "<image>", "cohere2"), alignment_intermediate_size=32
    )
    return Tiny(Cohere2VisionForConditionalGeneration(config), processor, "<image>")


def idefics_words() -> PreTrainedTokenizerFast:
    places = [f"<row_{row + 1}_col_{column + 1}>" for row in range(6) for column in range(6)]
    return words(
        "<image>", "<fake_token_around_image>", "<end_of_utterance>", "<global-img>", *places
    )


SPLIT = {"size": {"longest_edge": 72}, "max_image_size": {"longest_edge": 24}}


@family
def idefics3() -> Tiny:
    tokens = idefics_words()
    processor = Idefics3Processor(Idefics3ImageProcessorPil(**SPLIT), tokens, image_seq_len=9)
    config = Idefics3Config(**parts(tokens, "<image>", model_type="idefics3_vision"))
    return Tiny(Idefics3ForConditionalGeneration(config), processor, "<image>")


@family
def smolvlm() -> Tiny:
    """The processor of Idefics3, whose prompts are the same: its own wants num2words, to name times
    in videos.
    """
    tokens = idefics_words()
    processor = Idefics3Processor(SmolVLMImageProcessorPil(**SPLIT), tokens, image_seq_len=9)
    config = SmolVLMConfig(**parts(tokens, "<image>", model_type="smolvlm_vision"))
    return Tiny(SmolVLMForConditionalGeneration(config), processor, "<image>")


@family
def granite_docling() -> Tiny:
    # imported late: older releases of transformers, as vLLM has one, lack them
    from transformers import (
        GraniteDoclingConfig,
        GraniteDoclingForConditionalGeneration,
        GraniteDoclingImageProcessorPil,
        GraniteDoclingProcessor,
    )

    tokens = idefics_words()
    images = GraniteDoclingImageProcessorPil(**TILES)
    tower = {"model_type": "granite_docling_vision", "out_hidden_size": 32, "scale_factor": 2}
    options = parts(
        tokens, "<image>", "granite_docling_text", **tower, deepstack_visual_indexes=[0, 2]
    )
    config = GraniteDoclingConfig(**options, pad_token_id=1)
    processor = GraniteDoclingProcessor(images, tokens, image_seq_len=9)
    return Tiny(GraniteDoclingForConditionalGeneration(config), processor, "<image>")


@family
def janus() -> Tiny:
    tokens = words(image_token="<image>", boi_token="<boi>", eoi_token="<eoi>")
    processor = JanusProcessor(
        JanusImageProcessorPil(size=EDGE, min_size=4), tokens, num_image_tokens=36
    )
    tower = {
        "model_type": "janus_vision_model",
        "mlp_ratio": 2,
        "projection_dim": 32,
        "num_image_tokens": 36,
    }
    drawing = {
        "embed_dim": 8,
        "num_embeddings": 16,
        "latent_channels": 32,
        "base_channels": 32,
        "channel_multiplier": [1, 1],
        "num_res_blocks": 1,
        "projection_dim": 32,
        "image_token_embed_dim": 32,
    }
    config = JanusConfig(**parts(tokens, "<image>", **tower), vq_config=drawing)
    return Tiny(JanusForConditionalGeneration(config), processor, "<image>")


@family
def deepseek_vl() -> Tiny:
    tokens = words(image_token="<image>")
    images = DeepseekVLImageProcessorPil(size=EDGE, min_size=4)
    model = DeepseekVLForConditionalGeneration(DeepseekVLConfig(**parts(tokens, "<image>")))
    return Tiny(model, DeepseekVLProcessor(images, tokens, num_image_tokens=36), "<image>")


@family
def deepseek_vl_hybrid() -> Tiny:
    tokens = words(image_token="<image>")
    images = DeepseekVLHybridImageProcessorPil(
        size=EDGE, min_size=4, high_res_size={"height": 32, "width": 32}
    )
    sharp = vision(
        model_type="sam_vision_model",
        image_size=32,
        output_channels=8,
        mlp_dim=48,
        window_size=4,
        num_hidden_layers=2,
        global_attn_indexes=[1],
    )
    config = DeepseekVLHybridConfig(**parts(tokens, "<image>"), high_res_vision_config=sharp)
    processor = DeepseekVLHybridProcessor(images, tokens, num_image_tokens=36)
    return Tiny(DeepseekVLHybridForConditionalGeneration(config), processor, "<image>")


@family
def llama4() -> Tiny:
    tiles = ("<|tile_x_separator|>", "<|tile_y_separator|>")
    tokens = words("<|image|>", "<|patch|>", "<|image_start|>", "<|image_end|>", *tiles)
    images = without_torchvision("llama4.image_processing_llama4", "Llama4ImageProcessor")
    processor = Llama4Processor(images(size=EDGE, max_patches=4), tokens, patch_size=4)
    tower = {
        "intermediate_size": 128,
        "projector_input_dim": 32,
        "projector_output_dim": 32,
        "vision_output_dim": 32,
    }
    options = parts(tokens, "<|patch|>", "llama4_text", model_type="llama4_vision_model", **tower)
    options["text_config"] |= {
        "head_dim": 8,
        "intermediate_size_mlp": 48,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "no_rope_layer_interval": 2,
    }
    return Tiny(Llama4ForConditionalGeneration(Llama4Config(**options)), processor, "<|image|>")


@family
def ovis2() -> Tiny:
    places = ("<IMG_START>", "<IMG_GRID>", "<IMG_COL>", "<IMG_ROW>", "<IMG_END>")
    tokens = words("<image>", "<IMG_ATOM>", *places)
    processor = Ovis2Processor(
        Ovis2ImageProcessorPil(**TILES | {"max_patches": 8}), tokens, image_seq_length=9
    )
    tower = {"model_type": "ovis2_vision", "hidden_stride": 2, "vocab_size": 40}
    config = Ovis2Config(
        **parts(tokens, "<IMG_ATOM>", "qwen2", **tower),
        hidden_size=32,
        vocab_size=len(tokens),
        visual_indicator_token_ids=tokens.convert_tokens_to_ids(places),
    )
    return Tiny(Ovis2ForConditionalGeneration(config), processor, "<image>")
