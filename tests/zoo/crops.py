"""Towers that see square crops of one size."""

from transformers import (
    GotOcr2ImageProcessorPil,
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLProcessor,
)

from adafv.processors import pictures_only
from zoo.base import Tiny, family, text, vision, words


@family
def internvl() -> Tiny:
    tokens = words(
        start_image_token="<img>", end_image_token="</img>", context_image_token="<ctx>", video_token="<video>"
    )
    images = GotOcr2ImageProcessorPil(
        size={"height": 24, "width": 24}, crop_to_patches=True, min_patches=1, max_patches=4
    )
    processor = pictures_only(InternVLProcessor)(images, tokens, image_seq_length=9)
    config = InternVLConfig(
        vision_config=vision(image_size=[24, 24], patch_size=[4, 4]),
        text_config=text(tokens, model_type="qwen2"),
        image_token_id=tokens.convert_tokens_to_ids("<ctx>"), image_seq_length=9,
    )  # fmt: skip
    return Tiny(InternVLForConditionalGeneration(config), processor, "<ctx>")
