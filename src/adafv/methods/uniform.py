"""Uniform: an even stride over the grid."""

from dataclasses import dataclass

import torch
from torch import Tensor

from adafv.core.pruner import Pruner, Selection
from adafv.core.visual_tokens import VisualTokens
from adafv.ops.grid import cells
from adafv.utils.checks import checked

__all__ = ["Uniform", "centers"]


@checked
@dataclass(kw_only=True)
class Uniform(Pruner):
    """Keeps the token in the middle of each of K equal cells of the image."""

    name = "uniform"

    def pick(self, tokens: VisualTokens, budget: list[int]) -> Selection:
        device = tokens.features.device
        kept = [centers(w, cells(w, k)) for w, k in zip(tokens.coordinates, budget, strict=True)]
        return Selection([k.to(device, non_blocking=True) for k in kept])


@checked
def centers(coordinates: Tensor, cell: Tensor) -> Tensor:
    """The index of the token nearest to the middle of each cell, ascending; the lower one where two
    are as near.
    """
    inside = cell >= 0
    count = int(cell.max()) + 1
    place = coordinates[inside, 1:].double()
    size = cell[inside].bincount(minlength=count)
    middle = (
        torch.zeros(count, 2, dtype=torch.double).index_add_(0, cell[inside], place) / size[:, None]
    )
    distance = (place - middle[cell[inside]]).square().sum(1)
    order = distance.argsort(stable=True)
    order = order[cell[inside][order].argsort(stable=True)]
    return inside.nonzero()[:, 0][order[size.cumsum(0) - size]].sort().values
