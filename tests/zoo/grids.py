"""Qwen-VL and its kin: pictures of any shape, packed, M-RoPE."""

from typing import Any

from transformers import (
    CONFIG_MAPPING,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    PROCESSOR_MAPPING,
    Glm4vImageProcessorPil,
    Glm46VImageProcessorPil,
    Glm46VProcessor,
    PreTrainedTokenizerFast,
    Qwen2VLImageProcessorPil,
)

from adafv.processors import pictures_only
from zoo.base import Tiny, family, text, words

DEEP = "DeepStack adds features between the first layers, at places of the whole prompt"
LINEAR_ATTENTION = "layers of linear attention have no attention to rank tokens by"
WITHOUT_INSIDE = {
    "qwen3_5": LINEAR_ATTENTION,
    "qwen3_5_moe": LINEAR_ATTENTION,
    "qwen3_vl": DEEP,
    "qwen3_vl_moe": DEEP,
}

MARKER = "<|vision_start|><|image_pad|><|vision_end|>"
CONTROL = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
ROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1]}
PIXELS = dict(patch_size=4, merge_size=2, min_pixels=8 * 8, max_pixels=48 * 48)
EXPERTS = dict(num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16)
LINEAR = dict(
    layer_types=["linear_attention", "full_attention", "full_attention"], head_dim=16, linear_key_head_dim=8,
    linear_value_head_dim=8, linear_num_key_heads=2, linear_num_value_heads=4,
    rope_parameters=ROPE | {"partial_rotary_factor": 0.5, "mrope_interleaved": True},
)  # fmt: skip


def ids(tokens: PreTrainedTokenizerFast, **names: str) -> dict[str, int]:
    return {f"{name}_token_id": tokens.convert_tokens_to_ids(token) for name, token in names.items()}


def tower(**more: Any) -> dict[str, Any]:
    """Options of a tiny tower for pictures of any shape: 4 x 4 pixels a patch, 2 x 2 patches a token."""
    return dict(
        depth=3, hidden_size=32, out_hidden_size=32, intermediate_size=48, num_heads=4, patch_size=4,
        spatial_merge_size=2, initializer_range=0.5,
    ) | more  # fmt: skip


def qwen(name: str, vision: dict[str, Any], **more: Any) -> Tiny:
    tokens = words(*CONTROL)
    numbers = ids(tokens, vision_start=CONTROL[0], vision_end=CONTROL[1], image=CONTROL[2], video=CONTROL[3])
    config = CONFIG_MAPPING[name](
        text_config=text(tokens, **{"rope_parameters": ROPE} | more), vision_config=vision, **numbers
    )
    processor = pictures_only(PROCESSOR_MAPPING[type(config)])(Qwen2VLImageProcessorPil(**PIXELS), tokens)
    return Tiny(MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING[type(config)](config), processor, MARKER)


@family
def qwen2_vl() -> Tiny:
    vision = dict(
        depth=3, embed_dim=32, hidden_size=32, num_heads=4, mlp_ratio=2, patch_size=4, spatial_merge_size=2
    )
    return qwen("qwen2_vl", vision)


@family
def qwen2_5_vl() -> Tiny:
    return qwen("qwen2_5_vl", tower(window_size=16, fullatt_block_indexes=[1]))


@family
def qwen3_vl() -> Tiny:
    vision = tower(num_position_embeddings=36, deepstack_visual_indexes=[0, 1])
    return qwen("qwen3_vl", vision, head_dim=8, rope_parameters=ROPE | {"mrope_interleaved": True})


@family
def qwen3_vl_moe() -> Tiny:
    vision = tower(num_position_embeddings=36, deepstack_visual_indexes=[0, 1])
    return qwen("qwen3_vl_moe", vision, rope_parameters=ROPE | {"mrope_interleaved": True}, **EXPERTS)


@family
def qwen3_5() -> Tiny:
    return qwen("qwen3_5", tower(num_position_embeddings=36), **LINEAR)


@family
def qwen3_5_moe() -> Tiny:
    return qwen("qwen3_5_moe", tower(num_position_embeddings=36), **LINEAR, **EXPERTS)


def glm(name: str, images: Any, **more: Any) -> Tiny:
    control = [f"<|{edge}_of_{kind}|>" for kind in ("image", "video") for edge in ("begin", "end")]
    tokens = words(*control, "<|image|>", "<|video|>")
    numbers = ids(
        tokens, image_start=control[0], image_end=control[1], video_start=control[2], video_end=control[3],
        image="<|image|>", video="<|video|>",
    )  # fmt: skip
    options = text(tokens, **{"rope_parameters": ROPE} | more)
    config = CONFIG_MAPPING[name](text_config=options, vision_config=tower(image_size=24), **numbers)
    images = images(patch_size=4, merge_size=2, size={"shortest_edge": 8 * 8, "longest_edge": 2 * 48 * 48})
    processor = pictures_only(PROCESSOR_MAPPING.get(type(config), Glm46VProcessor))(images, tokens)
    marker = f"{control[0]}<|image|>{control[1]}"
    return Tiny(MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING[type(config)](config), processor, marker)


@family
def glm4v() -> Tiny:
    return glm("glm4v", Glm4vImageProcessorPil)


@family
def glm46v() -> Tiny:
    return glm("glm46v", Glm46VImageProcessorPil)


@family
def glm_ocr() -> Tiny:
    return glm("glm_ocr", Glm46VImageProcessorPil)


@family
def glm4v_moe() -> Tiny:
    return glm(
        "glm4v_moe", Glm4vImageProcessorPil, n_routed_experts=4, num_experts_per_tok=2, moe_intermediate_size=16,
        rope_parameters=ROPE | {"partial_rotary_factor": 0.5, "mrope_section": [1, 1, 0]},
    )  # fmt: skip
