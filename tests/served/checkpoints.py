"""Tiny random checkpoints of the families that are served on vLLM, as the hub has them."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import (
    CLIPImageProcessor,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextImageProcessor,
    LlavaNextProcessor,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionImageProcessor,
    LlavaOnevisionProcessor,
    LlavaOnevisionVideoProcessor,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
)
from zoo.base import text, vision, words
from zoo.videos import VIDEOS

from adafv.core.inputs import placeholders

FAMILIES = ("llava", "llava_next", "llava_onevision", "qwen2_5_vl")
SIZE = {"size": {"shortest_edge": 48}, "crop_size": {"height": 48, "width": 48}}
PINPOINTS = [[48, 96], [96, 48], [96, 96], [48, 144]]
PACKED = {
    "patch_size": 8,
    "vision_feature_select_strategy": "default",
    "num_additional_image_tokens": 1,
}
TOWER = {"image_size": 48, "patch_size": 8}
# heads of 32, for vLLM
BACKBONE = {"hidden_size": 128, "intermediate_size": 96, "max_position_embeddings": 4096}
CHAT = (
    "{% for m in messages %}{{ m['role'].upper() }} : {% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}MARKER {% elif c['type'] == 'video' %}CLIP "
    "{% else %}{{ c['text'] }} {% endif %}{% endfor %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT :{% endif %}"
)
MARKER = {name: "<image>" for name in FAMILIES} | {
    "qwen2_5_vl": "<|vision_start|><|image_pad|><|vision_end|>"
}
VIDEO_MARKER = {name: one.placeholder for name, one in VIDEOS.items()}


def chat_template(family: str, marker: str) -> str:
    """A template of chats, with what stands for an image and for a clip."""
    return CHAT.replace("MARKER", marker).replace("CLIP", VIDEO_MARKER.get(family, ""))


def save(family: str, folder: Path) -> Path:
    """A checkpoint of a family."""
    torch.manual_seed(0)
    model, processor = globals()[family]()
    model.generation_config.eos_token_id = None
    # no answer holds a placeholder
    for token in placeholders(model.config).values():
        model.get_output_embeddings().weight.data[token] = 0
    model.save_pretrained(folder)
    processor.chat_template = chat_template(family, MARKER[family])
    processor.save_pretrained(folder)
    weights = load_file(folder / "model.safetensors")
    hub = {
        name.replace("vision_tower.", "vision_tower.vision_model."): x
        for name, x in weights.items()
    }
    save_file(hub, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def llava() -> tuple[Any, Any]:
    tokens = _placeholders()
    config = LlavaConfig(
        **_parts(tokens, "llama", model_type="clip_vision_model", initializer_factor=4.0)
    )
    return LlavaForConditionalGeneration(config), LlavaProcessor(
        CLIPImageProcessor(**SIZE), tokens, **PACKED
    )


def llava_next() -> tuple[Any, Any]:
    tokens = _placeholders()
    parts = _parts(tokens, "llama", model_type="clip_vision_model", initializer_factor=4.0)
    images = LlavaNextImageProcessor(**SIZE, image_grid_pinpoints=PINPOINTS)
    model = LlavaNextForConditionalGeneration(
        LlavaNextConfig(**parts, image_grid_pinpoints=PINPOINTS)
    )
    return model, LlavaNextProcessor(images, tokens, **PACKED)


def llava_onevision() -> tuple[Any, Any]:
    tokens = _placeholders()
    parts = _parts(tokens, "qwen2", model_type="siglip_vision_model", vision_use_head=False)
    images = LlavaOnevisionImageProcessor(
        size={"height": 48, "width": 48}, image_grid_pinpoints=PINPOINTS
    )
    clips = LlavaOnevisionVideoProcessor(size={"height": 48, "width": 48})
    options = {"num_image_tokens": 36, "vision_feature_select_strategy": "full"}
    model = LlavaOnevisionForConditionalGeneration(
        LlavaOnevisionConfig(**parts, image_grid_pinpoints=PINPOINTS)
    )
    return model, LlavaOnevisionProcessor(images, tokens, clips, **options)


def qwen2_5_vl() -> tuple[Any, Any]:
    named = {"image_token": "<|image_pad|>", "video_token": "<|video_pad|>"}
    tokens = words("<|vision_start|>", "<|vision_end|>", **named)
    tower = dict(
        depth=3,
        hidden_size=64,
        intermediate_size=48,
        num_heads=2,
        out_hidden_size=128,
        patch_size=4,
        spatial_merge_size=2,
        temporal_patch_size=2,
        window_size=16,
        tokens_per_second=2,
        fullatt_block_indexes=[2],
        initializer_range=0.5,
    )
    rope = {"rope_type": "default", "mrope_section": [4, 6, 6], "rope_theta": 10000.0}
    ids = {
        "image_token_id": "<|image_pad|>",
        "video_token_id": "<|video_pad|>",
        "vision_start_token_id": "<|vision_start|>",
        "vision_end_token_id": "<|vision_end|>",
    }
    config = Qwen2_5_VLConfig(
        text_config=text(tokens, **BACKBONE, rope_parameters=rope),
        vision_config=tower,
        **{name: tokens.convert_tokens_to_ids(token) for name, token in ids.items()},
    )
    sizes = {"patch_size": 4, "min_pixels": 64, "max_pixels": 96 * 96}
    images, clips = Qwen2VLImageProcessor(**sizes), Qwen2VLVideoProcessor(**sizes)
    return Qwen2_5_VLForConditionalGeneration(config), Qwen2_5_VLProcessor(images, tokens, clips)


def _placeholders() -> PreTrainedTokenizerFast:
    return words(image_token="<image>", video_token="<video>")


def _parts(tokens: PreTrainedTokenizerFast, backbone: str, **tower: Any) -> dict[str, Any]:
    ids = {f"{x}_token_id": tokens.convert_tokens_to_ids(f"<{x}>") for x in ("image", "video")}
    return {
        "text_config": text(tokens, model_type=backbone, **BACKBONE),
        "vision_config": vision(**TOWER, **tower),
        **ids,
    }
