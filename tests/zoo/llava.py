"""LLaVA and what packs a thumbnail and tiles as LLaVA-NeXT does."""

from transformers import (
    CLIPImageProcessorPil,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextImageProcessorPil,
    LlavaNextProcessor,
    LlavaProcessor,
)

from zoo.base import Tiny, family, text, vision, words

SIZE = {"size": {"shortest_edge": 24}, "crop_size": {"height": 24, "width": 24}}
CLIP = {"model_type": "clip_vision_model", "initializer_factor": 4.0}
PACKED = {"patch_size": 4, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}
PINPOINTS = [[24, 48], [48, 24], [48, 48], [24, 72]]


@family
def llava() -> Tiny:
    tokens = words(image_token="<image>")
    processor = LlavaProcessor(CLIPImageProcessorPil(**SIZE), tokens, **PACKED)
    config = LlavaConfig(
        vision_config=vision(**CLIP),
        text_config=text(tokens, model_type="llama"),
        image_token_id=tokens.convert_tokens_to_ids("<image>"),
    )
    return Tiny(LlavaForConditionalGeneration(config), processor, "<image>")


@family
def llava_next() -> Tiny:
    tokens = words(image_token="<image>")
    images = LlavaNextImageProcessorPil(**SIZE, image_grid_pinpoints=PINPOINTS)
    config = LlavaNextConfig(
        vision_config=vision(**CLIP), text_config=text(tokens, model_type="llama"),
        image_token_id=tokens.convert_tokens_to_ids("<image>"),
        image_grid_pinpoints=PINPOINTS,
    )  # fmt: skip
    return Tiny(LlavaNextForConditionalGeneration(config), LlavaNextProcessor(images, tokens, **PACKED), "<image>")
