"""LLaVA and what packs a thumbnail and tiles as LLaVA-NeXT does."""

from typing import Any

from transformers import (
    CLIPImageProcessorPil,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextImageProcessorPil,
    LlavaNextProcessor,
    LlavaNextVideoConfig,
    LlavaNextVideoForConditionalGeneration,
    LlavaNextVideoProcessor,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionImageProcessorPil,
    LlavaOnevisionProcessor,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    VideoLlavaConfig,
    VideoLlavaForConditionalGeneration,
    VideoLlavaProcessor,
    VipLlavaConfig,
    VipLlavaForConditionalGeneration,
)
from transformers.models.video_llava.image_processing_video_llava import VideoLlavaImageProcessor

from adafv.models.processors import images_only
from zoo.base import Tiny, family, text, vision, words

SIZE = {"size": {"shortest_edge": 24}, "crop_size": {"height": 24, "width": 24}}
CLIP = {"model_type": "clip_vision_model", "initializer_factor": 4.0}
SIGLIP = {"model_type": "siglip_vision_model", "vision_use_head": False}
PACKED = {
    "patch_size": 4,
    "vision_feature_select_strategy": "default",
    "num_additional_image_tokens": 1,
}
PINPOINTS = [[24, 48], [48, 24], [48, 48], [24, 72]]


def parts(tokens: PreTrainedTokenizerFast, backbone: str = "llama", **tower: Any) -> dict[str, Any]:
    """Options of a configuration: text backbone, CLIP unless another tower is named, ids of the
    placeholders.
    """
    ids = {f"{x}_token_id": tokens.convert_tokens_to_ids(f"<{x}>") for x in ("image", "video")}
    return {
        "text_config": text(tokens, model_type=backbone),
        "vision_config": vision(**(tower or CLIP)),
        **ids,
    }


def placeholders() -> PreTrainedTokenizerFast:
    return words(image_token="<image>", video_token="<video>")


@family
def llava() -> Tiny:
    tokens = placeholders()
    processor = LlavaProcessor(CLIPImageProcessorPil(**SIZE), tokens, **PACKED)
    return Tiny(LlavaForConditionalGeneration(LlavaConfig(**parts(tokens))), processor, "<image>")


@family
def vipllava() -> Tiny:
    tokens = placeholders()
    processor = LlavaProcessor(CLIPImageProcessorPil(**SIZE), tokens, **PACKED)
    # older versions of transformers have the name in the plural
    layers = [-2, -3, 1]
    named = {"vision_feature_layer": layers, "vision_feature_layers": layers}
    config = VipLlavaConfig(**parts(tokens), **named)
    return Tiny(VipLlavaForConditionalGeneration(config), processor, "<image>")


@family
def video_llava() -> Tiny:
    tokens = placeholders()
    images = VideoLlavaImageProcessor(**SIZE)
    processor = images_only(VideoLlavaProcessor)(image_processor=images, tokenizer=tokens, **PACKED)
    return Tiny(
        VideoLlavaForConditionalGeneration(VideoLlavaConfig(**parts(tokens))), processor, "<image>"
    )


@family
def llava_next() -> Tiny:
    tokens = placeholders()
    images = LlavaNextImageProcessorPil(**SIZE, image_grid_pinpoints=PINPOINTS)
    config = LlavaNextConfig(**parts(tokens), image_grid_pinpoints=PINPOINTS)
    return Tiny(
        LlavaNextForConditionalGeneration(config),
        LlavaNextProcessor(images, tokens, **PACKED),
        "<image>",
    )


@family
def llava_next_video() -> Tiny:
    tokens = placeholders()
    images = LlavaNextImageProcessorPil(**SIZE, image_grid_pinpoints=PINPOINTS)
    processor = images_only(LlavaNextVideoProcessor)(
        image_processor=images, tokenizer=tokens, **PACKED
    )
    config = LlavaNextVideoConfig(**parts(tokens), image_grid_pinpoints=PINPOINTS)
    return Tiny(LlavaNextVideoForConditionalGeneration(config), processor, "<image>")


@family
def llava_onevision() -> Tiny:
    tokens = placeholders()
    images = LlavaOnevisionImageProcessorPil(
        size={"height": 24, "width": 24}, image_grid_pinpoints=PINPOINTS
    )
    options = {"num_image_tokens": 36, "vision_feature_select_strategy": "full"}
    processor = images_only(LlavaOnevisionProcessor)(images, tokens, **options)
    config = LlavaOnevisionConfig(
        **parts(tokens, "qwen2", **SIGLIP), image_grid_pinpoints=PINPOINTS
    )
    return Tiny(LlavaOnevisionForConditionalGeneration(config), processor, "<image>")
