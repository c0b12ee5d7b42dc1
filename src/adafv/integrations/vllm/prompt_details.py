"""What a prompt says of an image that is pruned, and what `/metrics` counts of it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from vllm.multimodal.processing import PromptUpdateDetails

from adafv.integrations.vllm.counters import COUNTERS

__all__ = ["PrunedDetails", "count_placed", "is_embed"]


@dataclass
class PrunedDetails(PromptUpdateDetails):
    """Describe an image of which not everything is kept, as the prompt has it.

    It stays in vLLM's cache with the image, so that `/metrics` knows of one that is found there
    what was dropped.

    Attributes:
        method: by name, without options.
        seen, kept: N and K, of its visual tokens.
    """

    method: str = ""
    seen: int = 0
    kept: int = 0


def is_embed(before: int, run: int, behind: int) -> Callable[[list[int]], Tensor] | None:
    """Return what says which tokens of an image get embeddings: a run. None: all of them."""
    if not before and not behind:
        return None
    inside = torch.zeros(before + run + behind, dtype=torch.bool)
    inside[before : before + run] = True
    return lambda _: inside


def count_placed(content: PromptUpdateDetails, place: Any) -> None:
    """Count an image for `/metrics`, by what the prompt says of it and where that stands."""
    if isinstance(content, PrunedDetails):
        COUNTERS.count_image(content.method, content.seen, content.kept)
    else:
        count = place.to_range().get_num_embeds()
        COUNTERS.count_image("none", count, count)
