"""Clips for the tiny models: their families' processors, with the part that prepares videos."""

import copy
from functools import cache
from typing import Any

import numpy as np
from PIL import Image
from transformers import PROCESSOR_MAPPING, Glm46VProcessor

from zoo.base import tiny
from zoo.transforms import without_torchvision

GRID = {
    "patch_size": 4,
    "merge_size": 2,
    "temporal_patch_size": 2,
    "size": {"shortest_edge": 8 * 8, "longest_edge": 16 * 48 * 48},
}
FRAME_BY_FRAME = GRID | {"temporal_patch_size": 1}
CROPS = {"size": {"height": 24, "width": 24}, "do_center_crop": False}
QWEN = "<|vision_start|><|video_pad|><|vision_end|>"
GLM = "<|begin_of_video|><|video|><|end_of_video|>"

# by family: the module and class of its video processor, their options, what stands for a clip
VIDEOS: dict[str, tuple[str, str, dict[str, Any], str]] = {
    "cosmos3_edge": ("cosmos3_edge", "Cosmos3EdgeVideoProcessor", FRAME_BY_FRAME, QWEN),
    "ernie4_5_vl_moe": (
        "ernie4_5_vl_moe",
        "Ernie4_5_VLMoeVideoProcessor",
        GRID | {"draw_on_frames": False},
        "<video_start><video><video_end>",
    ),
    "exaone4_5": ("qwen2_vl", "Qwen2VLVideoProcessor", GRID, QWEN),
    "gemma4": (
        "gemma4",
        "Gemma4VideoProcessor",
        {"patch_size": 4, "max_soft_tokens": 70, "pooling_kernel_size": 2},
        "<|video|>",
    ),
    "glm46v": ("glm46v", "Glm46VVideoProcessor", GRID, GLM),
    "glm4v": ("glm4v", "Glm4vVideoProcessor", GRID, GLM),
    "glm4v_moe": ("glm4v", "Glm4vVideoProcessor", GRID, GLM),
    "glm_ocr": ("glm46v", "Glm46VVideoProcessor", GRID, GLM),
    "hyperclovax_vision_v2": ("qwen2_vl", "Qwen2VLVideoProcessor", GRID, QWEN),
    "internvl": ("internvl", "InternVLVideoProcessor", CROPS, "<video>"),
    "lfm3_vl": ("qwen3_vl", "Qwen3VLVideoProcessor", GRID, QWEN),
    "llava_next_video": ("llava_next_video", "LlavaNextVideoVideoProcessor", CROPS, "<video>"),
    "llava_onevision": ("llava_onevision", "LlavaOnevisionVideoProcessor", CROPS, "<video>"),
    "minimax_m3_vl": ("minimax_m3_vl", "MiniMaxM3VLVideoProcessor", GRID, "]<]video[>["),
    "qwen2_5_vl": ("qwen2_vl", "Qwen2VLVideoProcessor", GRID, QWEN),
    "qwen2_vl": ("qwen2_vl", "Qwen2VLVideoProcessor", GRID, QWEN),
    "qwen3_5": ("qwen3_vl", "Qwen3VLVideoProcessor", GRID, QWEN),
    "qwen3_5_moe": ("qwen3_vl", "Qwen3VLVideoProcessor", GRID, QWEN),
    "qwen3_vl": ("qwen3_vl", "Qwen3VLVideoProcessor", GRID, QWEN),
    "qwen3_vl_moe": ("qwen3_vl", "Qwen3VLVideoProcessor", GRID, QWEN),
    "video_llama_3": ("video_llama_3", "VideoLlama3VideoProcessor", FRAME_BY_FRAME, QWEN),
    "video_llava": ("video_llava", "VideoLlavaVideoProcessor", CROPS, "<video>"),
}


@cache
def video_processor(name: str) -> Any:
    """The family's whole processor: that of its tiny model, which reads images alone, and the real
    video processor.
    """
    module, kind, options, _ = VIDEOS[name]
    found = tiny(name)
    videos = without_torchvision(f"{module}.video_processing_{module}", kind)
    processor = copy.copy(found.processor)
    # transformers checks a constructor's video processor against classes that want torchvision
    processor.__class__ = PROCESSOR_MAPPING.get(type(found.model.config), Glm46VProcessor)
    processor.video_processor = videos(**options)
    return processor


def with_template(name: str) -> Any:
    """The same processor, with a chat template of one turn."""
    processor = copy.copy(video_processor(name))
    processor.chat_template = (
        "USER : {% for c in messages[0]['content'] %}{% if c['type'] == 'image' %}"
        + tiny(name).marker
        + "{% elif c['type'] == 'video' %}"
        + VIDEOS[name][3]
        + "{% else %}{{ c['text'] }}{% endif %} {% endfor %}ASSISTANT :"
    )
    return processor


def clip(name: str, frames: list[Image.Image], question: str) -> dict[str, Any]:
    """Inputs of a question about a clip, two frames a second."""
    pixels = np.stack([np.asarray(frame) for frame in frames])  # (frames, height, width, 3)
    count, height, width = pixels.shape[:3]
    metadata = {
        "total_num_frames": count,
        "fps": 2.0,
        "width": width,
        "height": height,
        "duration": count / 2,
        "frames_indices": list(range(count)),
    }
    inputs = video_processor(name)(
        text=[f"USER : {VIDEOS[name][3]} {question} ASSISTANT :"],
        videos=[pixels],
        video_metadata=[metadata],
        do_sample_frames=False,
        return_metadata=True,
        return_tensors="pt",
    )
    return {key: x for key, x in inputs.items() if key != "video_metadata"}
