"""A tiny random model of every family with its own processor: real classes, nothing downloaded."""

from typing import Any

import torch

from zoo import crops, grids, llava, shapes, unseen
from zoo.base import ZOO, Tiny, ask, show, tiny

__all__ = [
    "NAME_A_LAYER",
    "ZOO",
    "Tiny",
    "ask",
    "crops",
    "generated",
    "grids",
    "llava",
    "logits",
    "shapes",
    "show",
    "tiny",
    "unseen",
]

NAME_A_LAYER = (
    "aya_vision",
    "internvl",
    "llava",
    "llava_next",
    "llava_next_video",
    "llava_onevision",
    "mistral3",
    "qianfan_ocr",
    "video_llava",
)
"""Families whose configuration names the layer of the features."""


def generated(name: str, inputs: dict[str, Any], **options) -> list[list[int]]:
    """Return the four tokens that a family's model answers each prompt with."""
    greedy = {"do_sample": False, "max_new_tokens": 4}
    answers = tiny(name).model.generate(**inputs, **greedy | options)
    return answers[:, inputs["input_ids"].shape[1] :].tolist()


@torch.no_grad()
def logits(name: str, inputs: dict[str, Any]) -> torch.Tensor:
    """Return a model's logits (B, L, words), read without a cache."""
    return tiny(name).model(**inputs, use_cache=False).logits
