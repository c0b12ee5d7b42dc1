"""Clips for the tiny models: their families' processors, with the part that prepares videos."""

import copy
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from PIL.Image import Resampling
from transformers import PROCESSOR_MAPPING, Glm46VProcessor

from adafv.models.videos import Video
from zoo.base import tiny
from zoo.crops import SPLIT
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


class Prepared(NamedTuple):
    """How a family's clips are prepared: the video processor, and what stands for a clip."""

    module: str
    kind: str
    options: dict[str, Any]
    placeholder: str


VIDEOS = {
    "cosmos3_edge": Prepared("cosmos3_edge", "Cosmos3EdgeVideoProcessor", FRAME_BY_FRAME, QWEN),
    "ernie4_5_vl_moe": Prepared(
        "ernie4_5_vl_moe",
        "Ernie4_5_VLMoeVideoProcessor",
        GRID | {"draw_on_frames": False},
        "<video_start><video><video_end>",
    ),
    "exaone4_5": Prepared("qwen2_vl", "Qwen2VLVideoProcessor", GRID, QWEN),
    "gemma4": Prepared(
        "gemma4",
        "Gemma4VideoProcessor",
        {"patch_size": 4, "max_soft_tokens": 70, "pooling_kernel_size": 2},
        "<|video|>",
    ),
    "glm46v": Prepared("glm46v", "Glm46VVideoProcessor", GRID, GLM),
    "glm4v": Prepared("glm4v", "Glm4vVideoProcessor", GRID, GLM),
    "glm4v_moe": Prepared("glm4v", "Glm4vVideoProcessor", GRID, GLM),
    "glm_ocr": Prepared("glm46v", "Glm46VVideoProcessor", GRID, GLM),
    "hyperclovax_vision_v2": Prepared("qwen2_vl", "Qwen2VLVideoProcessor", GRID, QWEN),
    "internvl": Prepared("internvl", "InternVLVideoProcessor", CROPS, "<video>"),
    "lfm3_vl": Prepared("qwen3_vl", "Qwen3VLVideoProcessor", GRID, QWEN),
    "llava_next_video": Prepared(
        "llava_next_video", "LlavaNextVideoVideoProcessor", CROPS, "<video>"
    ),
    "llava_onevision": Prepared(
        "llava_onevision", "LlavaOnevisionVideoProcessor", CROPS, "<video>"
    ),
    "minimax_m3_vl": Prepared("minimax_m3_vl", "MiniMaxM3VLVideoProcessor", GRID, "]<]video[>["),
    "qwen2_5_vl": Prepared("qwen2_vl", "Qwen2VLVideoProcessor", GRID, QWEN),
    "qwen2_vl": Prepared("qwen2_vl", "Qwen2VLVideoProcessor", GRID, QWEN),
    "qwen3_5": Prepared("qwen3_vl", "Qwen3VLVideoProcessor", GRID, QWEN),
    "qwen3_5_moe": Prepared("qwen3_vl", "Qwen3VLVideoProcessor", GRID, QWEN),
    "qwen3_vl": Prepared("qwen3_vl", "Qwen3VLVideoProcessor", GRID, QWEN),
    "qwen3_vl_moe": Prepared("qwen3_vl", "Qwen3VLVideoProcessor", GRID, QWEN),
    "smolvlm": Prepared(
        "smolvlm",
        "SmolVLMVideoProcessor",
        # the published ones resize by Lanczos, which torch does not have
        SPLIT | {"resample": Resampling.BICUBIC},
        "<video>",
    ),
    "video_llama_3": Prepared("video_llama_3", "VideoLlama3VideoProcessor", FRAME_BY_FRAME, QWEN),
    "video_llava": Prepared("video_llava", "VideoLlavaVideoProcessor", CROPS, "<video>"),
}


@cache
def video_processor(name: str) -> Any:
    """The family's whole processor: that of its tiny model, which reads images alone, and the real
    video processor.
    """
    of_videos, found = VIDEOS[name], tiny(name)
    module = f"{of_videos.module}.video_processing_{of_videos.module}"
    videos = without_torchvision(module, of_videos.kind)
    processor = copy.copy(found.processor)
    # transformers checks a constructor's video processor against classes that want torchvision
    processor.__class__ = PROCESSOR_MAPPING.get(type(found.model.config), Glm46VProcessor)
    processor.video_processor = videos(**of_videos.options)
    if name == "smolvlm":
        # what its own processor has besides that of Idefics3, which stands for it
        processor.video_token = of_videos.placeholder
        processor.global_image_token = "<global-img>"
    return processor


def with_template(name: str) -> Any:
    """The same processor, with a chat template of one turn."""
    processor = copy.copy(video_processor(name))
    processor.chat_template = (
        "USER : {% for c in messages[0]['content'] %}{% if c['type'] == 'image' %}"
        + tiny(name).marker
        + "{% elif c['type'] == 'video' %}"
        + VIDEOS[name].placeholder
        + "{% else %}{{ c['text'] }}{% endif %} {% endfor %}ASSISTANT :"
    )
    return processor


def clip(name: str, frames: list[Image.Image], question: str) -> dict[str, Any]:
    """Inputs of a question about a clip, two frames a second."""
    pixels = np.stack([np.asarray(frame) for frame in frames])  # (frames, height, width, 3)
    count = len(pixels)
    inputs = video_processor(name)(
        text=[f"USER : {VIDEOS[name].placeholder} {question} ASSISTANT :"],
        videos=[pixels],
        video_metadata=[Video(pixels, tuple(range(count)), count, 2.0).metadata],
        do_sample_frames=False,
        return_metadata=True,
        return_tensors="pt",
    )
    return {key: x for key, x in inputs.items() if key != "video_metadata"}
