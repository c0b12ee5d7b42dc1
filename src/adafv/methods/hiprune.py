"""HiPrune: objects by a middle layer, with their surroundings; the picture as a whole by a deep one."""

from dataclasses import dataclass

import torch
from torch import Tensor

from adafv.capture import Signal
from adafv.encoding import VisualTokens
from adafv.pruner import Pruner, Selection

__all__ = ["HiPrune"]

MIDDLE = Signal("received", 0.39)
DEEP = Signal("received")
APART = 1 << 20


@dataclass(kw_only=True)
class HiPrune(Pruner):
    """Keeps what a middle layer attends to with its neighbours, then what a deep layer attends to.

    Jizhihui Liu et al., "HiPrune: Training-Free Visual Token Pruning via Hierarchical Attention in Vision-Language
    Models", Findings of ACL 2026, arXiv 2508.00553. Attention is what a patch receives, mean over heads and queries.
    Anchors: the round(alpha · K / 5) highest in layer 9 of CLIP's 24. Buffers: the four neighbours of each. Registers:
    the highest of the rest in the layer of the features, up to the budget.
    Departure: neighbours are those inside the same crop; the authors' indices run on from the end of a row into the
    next.
    Departure: should anchors and buffers exceed the budget (alpha near 1), the buffers lowest in the deep layer go.
    Departure: one budget for all crops, not one for each.

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

    def select(self, tokens: VisualTokens, budget: list[int]) -> Selection:
        middle, deep, kept = tokens.signals[MIDDLE], tokens.signals[DEEP], []
        for i, (where, k) in enumerate(zip(tokens.where, budget, strict=True)):
            count = len(where)
            anchors = middle[i, :count].argsort(descending=True, stable=True)[: round(self.alpha * k / 5)]
            distance = _distance(where, anchors)
            is_anchor, is_near = (distance == 0).any(0), (distance <= 1).any(0)
            # Attention is at most 1, and in double precision an integer beside it costs none of its digits.
            score = deep[i, :count].double() + is_near + is_anchor
            kept.append(score.argsort(descending=True, stable=True)[:k].sort().values)
        return Selection(kept)


def _distance(where: Tensor, anchors: Tensor) -> Tensor:
    """(anchors, N) steps on the grid; tokens of different crops are far apart."""
    place = (where * torch.tensor([APART, 1, 1])).to(anchors.device, non_blocking=True)
    return (place[anchors, None] - place).abs().sum(-1)
