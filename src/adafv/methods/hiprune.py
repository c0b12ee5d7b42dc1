"""HiPrune: objects by a middle layer, with their surroundings; the whole image by a deep one."""

from dataclasses import dataclass

import torch
from torch import Tensor

from adafv.core.pruner import Pruner
from adafv.core.selection import Selection
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
    shares = ("alpha",)

    def pick(self, tokens: VisualTokens, budget: list[int]) -> Selection:
        """Keep anchors, then their buffers, then registers, until there are K."""
        kept = []
        for i, (coordinates, k) in enumerate(zip(tokens.coordinates, budget, strict=True)):
            count = len(coordinates)
            middle = tokens.signals[MIDDLE][i, :count]  # (N,)
            deep = tokens.signals[DEEP][i, :count]  # (N,)

            # anchors: the highest of a middle layer
            anchors = middle.argsort(descending=True, stable=True)[: round(self.alpha * k / 5)]

            # buffers: the neighbours of the anchors
            near = neighbours(coordinates).to(anchors.device, non_blocking=True)  # (N, 5)
            buffers = near[anchors].flatten()

            # Anchors go first, then buffers, then all others: the registers.
            turn = torch.full((count,), 2, device=deep.device)
            turn = turn.index_fill(0, buffers, 1).index_fill(0, anchors, 0)

            # within each, the highest of a deep layer
            by_deep = deep.argsort(descending=True, stable=True)  # (N,)
            order = by_deep[turn[by_deep].argsort(stable=True)]
            kept.append(order[:k].sort().values)
        return Selection(kept)


def neighbours(coordinates: Tensor) -> Tensor:
    """Find the tokens before and after each one in its crop, and those a row before and after.

    Beyond the ends of the crop it is the crop's first or last token; where a video's frame has no
    token, the token itself.

    Args:
        coordinates: (N, 3) crop, row, column of each token.

    Returns:
        (N, 5) indices, the token itself first.
    """
    near = torch.arange(len(coordinates))[:, None].repeat(1, 5)  # (N, 5)
    for crop in coordinates[:, 0].unique():
        members = (coordinates[:, 0] == crop).nonzero()[:, 0]  # (n,)

        # number the crop row after row
        corner = coordinates[members, 1:].amin(0)
        row, column = (coordinates[members, 1:] - corner).unbind(1)  # (n,)
        width = int(column.max()) + 1
        number = row * width + column
        token = torch.full((int(number.max()) + 1,), -1)
        token[number] = members

        # one more or less, a row's length more or less
        steps = torch.tensor([0, -1, 1, -width, width])
        found = token[(number[:, None] + steps).clamp(0, len(token) - 1)]  # (n, 5)
        near[members] = found.where(found >= 0, members[:, None])
    return near
