"""What a prompt says of an image that is pruned, and what `/metrics` counts of it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor
from vllm.multimodal.processing import PromptUpdateDetails

from adafv.integrations.vllm.counters import COUNTERS

__all__ = ["PrunedDetails", "costs_in", "count_placed", "is_embed"]


@dataclass
class PrunedDetails(PromptUpdateDetails):
    """Describe an image of which tokens are chosen, as the prompt has it.

    It stays in vLLM's cache with the image, so that of one that is found there `/metrics` knows
    what was dropped, and the request what choosing costs.

    Attributes:
        method: by name, without options.
        seen, kept: N and K, of its visual tokens.
        cost: of the choice, as a share of what a request may take.
    """

    method: str = ""
    seen: int = 0
    kept: int = 0
    cost: float = 0.0


def is_embed(before: int, run: int, behind: int) -> Callable[[list[int]], Tensor] | None:
    """Return what says which tokens of an image get embeddings: a run. None: all of them."""
    if not before and not behind:
        return None
    inside = torch.zeros(before + run + behind, dtype=torch.bool)
    inside[before : before + run] = True
    return lambda _: inside


def costs_in(updates: Mapping[str, Sequence[Any]]) -> list[float]:
    """Return what each choice for a request costs, those for images in vLLM's cache among them.

    Args:
        updates: of its prompt, by modality, for each item.
    """
    costs = []
    for of_item in chain.from_iterable(updates.values()):
        content = of_item[0].content
        if isinstance(content, PrunedDetails):
            costs.append(content.cost)
    return costs


def count_placed(content: PromptUpdateDetails, place: Any) -> None:
    """Count an image for `/metrics`, by what the prompt says of it and where that stands."""
    if isinstance(content, PrunedDetails):
        COUNTERS.count_image(content.method, content.seen, content.kept)
    else:
        count = place.to_range().get_num_embeds()
        COUNTERS.count_image("none", count, count)
