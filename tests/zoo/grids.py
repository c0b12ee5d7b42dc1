"""Qwen-VL and its kin: pictures of any shape, packed, M-RoPE."""

from transformers import (
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessorPil,
    Qwen2VLProcessor,
)

from adafv.processors import pictures_only
from zoo.base import Tiny, family, text, words

MARKER = "<|vision_start|><|image_pad|><|vision_end|>"
CONTROL = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
ROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]}


def ids(tokens, **more):
    names = {"vision_start": 0, "vision_end": 1, "image": 2, "video": 3}
    return {f"{name}_token_id": tokens.convert_tokens_to_ids(CONTROL[i]) for name, i in names.items()} | more


@family
def qwen2_vl() -> Tiny:
    tokens = words(*CONTROL)
    images = Qwen2VLImageProcessorPil(patch_size=4, merge_size=2, min_pixels=8 * 8, max_pixels=48 * 48)
    config = Qwen2VLConfig(
        text_config=text(tokens, rope_parameters=ROPE),
        vision_config=dict(
            depth=3, embed_dim=32, hidden_size=32, num_heads=4, mlp_ratio=2, patch_size=4, spatial_merge_size=2
        ),
        **ids(tokens),
    )
    return Tiny(Qwen2VLForConditionalGeneration(config), pictures_only(Qwen2VLProcessor)(images, tokens), MARKER)
