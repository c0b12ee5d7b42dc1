"""Uniform: an even stride over the grid."""

from dataclasses import dataclass

import torch
from torch import Tensor

from adafv.core.pruner import Pruner
from adafv.core.selection import Selection
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
        """Keep the token in the middle of each cell."""
        kept = []
        for i, k in enumerate(budget):
            coordinates = tokens.coordinates[i]
            middle = centers(coordinates, cells(coordinates, k, tokens.frames[i]))  # (K,)
            kept.append(middle.to(tokens.device, non_blocking=True))
        return Selection(kept)


@checked
def centers(coordinates: Tensor, cell: Tensor) -> Tensor:
    """Find the token nearest to the middle of each cell; the lower index where two are as near.

    Args:
        coordinates: (N, 3) crop, row, column of each token.
        cell: (N,) as `adafv.ops.grid.cells` returns it.

    Returns:
        (K,) indices, ascending.
    """
    inside = (cell >= 0).nonzero()[:, 0]  # (n,)
    cell = cell[inside]  # (n,)
    position = coordinates[inside, 1:].double()  # (n, 2)

    # the middle of each cell: the mean of its tokens' rows and columns
    count = int(cell.max()) + 1
    size = cell.bincount(minlength=count)  # (K,)
    total = torch.zeros(count, 2, dtype=torch.double).index_add_(0, cell, position)  # (K, 2)
    middle = total / size[:, None]

    # cell by cell, the nearest token first
    distance = (position - middle[cell]).square().sum(1)  # (n,)
    nearest = distance.argsort(stable=True)
    nearest = nearest[cell[nearest].argsort(stable=True)]

    # the first of each cell
    start = size.cumsum(0) - size  # (K,)
    return inside[nearest[start]].sort().values
