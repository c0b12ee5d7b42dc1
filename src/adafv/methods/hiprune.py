"""HiPrune: objects by a middle layer, with their surroundings; the image as a whole by a deep
one.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from adafv.core.pruner import Pruner, Selection
from adafv.core.signals import Signal
from adafv.core.visual_tokens import VisualTokens

__all__ = ["HiPrune"]

MIDDLE = Signal("received", 8 / 23)  # layer 9 of CLIP's 24, counted from 1
DEEP = Signal("received")


@dataclass(kw_only=True)
class HiPrune(Pruner):
    """Keeps what a middle layer attends to with its neighbours, then what a deep layer attends to.

    Jizhihui Liu et al., "HiPrune: Training-Free Visual Token Pruning via Hierarchical Attention in
    Vision-Language Models", Findings of ACL 2026, arXiv 2508.00553. Attention is what a patch
    receives, mean over heads and queries. Anchors: the round(alpha · K / 5) highest in layer 9 of
    CLIP's 24, and as deep in other towers, in Qwen2.5-VL's the next that sees the whole image, 16
    of 32. Buffers: of each the tokens before and after it in reading order and those a row's length
    before and after, so that a row goes on in the next; beyond the crop's ends its first or last
    token. Registers: the highest of the rest in the layer of the features, up to the budget.
    Departure: should anchors and buffers exceed the budget (alpha near 1), the buffers lowest in
    the deep layer go.
    Departure: one budget for all crops, where the authors have one for each (`crops="each"`) and
    the crops' padding among the candidates.

    Args:
        alpha: share of the budget that goes to anchors and buffers (paper: 0.1).
    """

    alpha: float = 0.1

    name = "hiprune"
    paper = "arXiv 2508.00553"
    signals = frozenset({MIDDLE, DEEP})

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"alpha={self.alpha} is not a share of the budget: pass 0 to 1")

    def pick(self, tokens: VisualTokens, budget: list[int]) -> Selection:
        middle, deep, kept = tokens.signals[MIDDLE], tokens.signals[DEEP], []
        for i, (coordinates, k) in enumerate(zip(tokens.coordinates, budget, strict=True)):
            count = len(coordinates)
            anchors = middle[i, :count].argsort(descending=True, stable=True)[
                : round(self.alpha * k / 5)
            ]
            # (anchors, 5)
            beside = neighbours(coordinates).to(anchors.device, non_blocking=True)[anchors]
            # Attention is at most 1, and in double precision an integer beside it costs none of its
            # digits.
            score = deep[i, :count].double()
            first = (
                torch.zeros_like(score).index_fill(0, beside.flatten(), 1).index_fill(0, anchors, 2)
            )
            kept.append((score + first).argsort(descending=True, stable=True)[:k].sort().values)
        return Selection(kept)


def neighbours(coordinates: Tensor) -> Tensor:
    """For each token (N, 5): itself, those before and after it in its crop, those a row before and
    after.

    Beyond the ends of the crop it is the crop's first or last token; where a clip's frame has none,
    the token itself.
    """
    beside = torch.arange(len(coordinates))[:, None].repeat(1, 5)
    for crop in coordinates[:, 0].unique():
        inside = (coordinates[:, 0] == crop).nonzero()[:, 0]  # (n,)
        row, column = (coordinates[inside, 1:] - coordinates[inside, 1:].amin(0)).unbind(1)
        width = int(column.max()) + 1
        place = row * width + column
        token = torch.full((int(place.max()) + 1,), -1)
        token[place] = inside
        steps = torch.tensor([0, -1, 1, -width, width])
        found = token[(place[:, None] + steps).clamp(0, len(token) - 1)]  # (n, 5)
        beside[inside] = found.where(found >= 0, inside[:, None])
    return beside
