"""Towers that see images of any shape, one after another or padded."""

from typing import Any

from transformers import (
    CONFIG_MAPPING,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    Gemma4AudioFeatureExtractor,
    Gemma4ImageProcessorPil,
    Gemma4Processor,
    Lfm2VlProcessor,
    LightOnOcrProcessor,
    PixtralImageProcessorPil,
)

from adafv.models.processors import images_only
from zoo.base import Tiny, family, text, vision, words
from zoo.transforms import without_torchvision


def build(name: str, **options: Any) -> Any:
    """The model of a configuration."""
    config = CONFIG_MAPPING[name](**options)
    return MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING[type(config)](config)


@family
def mistral3() -> Tiny:
    tokens = words("[IMG]", "[IMG_BREAK]", "[IMG_END]")
    images = PixtralImageProcessorPil(patch_size=4, size={"longest_edge": 48})
    processor = without_torchvision("pixtral.processing_pixtral", "PixtralProcessor")
    processor = processor(images, tokens, patch_size=4, spatial_merge_size=2)
    model = build(
        "mistral3",
        vision_config=vision(model_type="pixtral", image_size=48, head_dim=8),
        text_config=text(tokens, model_type="mistral", head_dim=8),
        spatial_merge_size=2,
        image_token_index=tokens.convert_tokens_to_ids("[IMG]"),
    )
    return Tiny(model, processor, "[IMG]")


def pixtral() -> Tiny:
    """LLaVA in front of Pixtral's tower."""
    tokens = words("[IMG]", "[IMG_BREAK]", "[IMG_END]")
    images = PixtralImageProcessorPil(patch_size=4, size={"longest_edge": 48})
    processor = without_torchvision("pixtral.processing_pixtral", "PixtralProcessor")
    model = build(
        "llava",
        vision_config=vision(model_type="pixtral", image_size=48, head_dim=8),
        text_config=text(tokens, model_type="mistral", head_dim=8),
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        image_token_index=tokens.convert_tokens_to_ids("[IMG]"),
    )
    return Tiny(model, processor(images, tokens, patch_size=4), "[IMG]")


@family
def lighton_ocr() -> Tiny:
    tokens = words(image_token="<image>", image_break_token="<break>", image_end_token="<end>")
    images = PixtralImageProcessorPil(patch_size=8, size={"longest_edge": 48})
    processor = LightOnOcrProcessor(images, tokens, patch_size=4, spatial_merge_size=2)
    model = build(
        "lighton_ocr",
        vision_config=vision(model_type="pixtral", image_size=48, head_dim=8),
        text_config=text(tokens, model_type="qwen3", head_dim=8),
        spatial_merge_size=2,
        image_token_id=tokens.convert_tokens_to_ids("<image>"),
    )
    return Tiny(model, processor, "<image>")


@family
def lfm2_vl() -> Tiny:
    places = [f"<|img_row_{row}_col_{column}|>" for row in (1, 2) for column in (1, 2)]
    tokens = words("<image>", "<|image_start|>", "<|image_end|>", "<|img_thumbnail|>", *places)
    images = without_torchvision("lfm2_vl.image_processing_lfm2_vl", "Lfm2VlImageProcessor")(
        encoder_patch_size=4, tile_size=24, min_image_tokens=4, max_image_tokens=16, max_tiles=4
    )
    model = build(
        "lfm2_vl",
        vision_config=vision(
            model_type="siglip2_vision_model", num_patches=36, vision_use_head=False
        ),
        text_config=text(tokens, model_type="lfm2", full_attn_idxs=[0, 2]),
        projector_hidden_size=32,
        image_token_id=tokens.convert_tokens_to_ids("<image>"),
    )
    return Tiny(model, Lfm2VlProcessor(images, tokens), "<image>")


def gemma4_both_ways() -> Tiny:
    """As the larger ones of Gemma 4, whose layers read no embeddings of their own."""
    return gemma4(hidden_size_per_layer_input=0)


@family
def gemma4(**more: Any) -> Tiny:
    """Its smallest budget is 70 visual tokens an image."""
    tokens = words(
        image_token="<image>",
        boi_token="<boi>",
        eoi_token="<eoi>",
        audio_token="<audio>",
        boa_token="<boa>",
        eoa_token="<eoa>",
    )
    images = Gemma4ImageProcessorPil(patch_size=4, max_soft_tokens=70, pooling_kernel_size=2)
    sight = vision(
        head_dim=8,
        pooling_kernel_size=2,
        position_embedding_size=64,
        num_key_value_heads=4,
        default_output_length=70,
    )
    backbone = {
        "head_dim": 8,
        "global_head_dim": 8,
        "hidden_size_per_layer_input": 8,
        "vocab_size_per_layer_input": len(tokens),
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "num_hidden_layers": 4,
        "use_bidirectional_attention": "vision",
    }
    found = ("image", "boi", "eoi", "boa", "audio")
    # the processor adds the token of videos behind all words
    video = len(tokens)
    model = build(
        "gemma4",
        vision_config=sight,
        audio_config=None,
        text_config=text(tokens, **backbone | more),
        **{f"{name}_token_id": getattr(tokens, f"{name}_token_id") for name in found},
        video_token_id=video,
    )
    processor = images_only(Gemma4Processor)(Gemma4AudioFeatureExtractor(), images, tokens, None)
    return Tiny(model, processor, "<image>")
