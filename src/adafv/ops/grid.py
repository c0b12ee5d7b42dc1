"""Divide an image into K cells: for methods that only look at where tokens lie.

Known on the host, from shapes.
"""

import math
from itertools import accumulate

import torch
from torch import Tensor

from adafv.utils.checks import checked

__all__ = ["cells", "grids", "share_out"]


@checked
def share_out(budget: int, sizes: list[int]) -> list[int]:
    """Divide a budget in proportion to sizes, exactly: largest remainders first, then the lower
    index.
    """
    total = sum(sizes)
    shares = [budget * size // total for size in sizes]
    by_remainder = sorted(range(len(sizes)), key=lambda i: -(budget * sizes[i] % total))
    for i in by_remainder[: budget - sum(shares)]:
        shares[i] += 1
    return shares


@checked
def cells(coordinates: Tensor, count: int) -> Tensor:
    """Divide an image's tokens into `count` compact cells of nearly equal size, none empty.

    The thumbnail and the grid of tiles are divided each on its own, in proportion to their tokens:
    into bands of rows, and each band into stretches of columns.

    Args:
        coordinates: (N, 3) crop, row, column of each token.
        count: number of cells, 1 <= count <= N.

    Returns:
        (N,) the cell of each token, 0 … count - 1.
    """
    tile = coordinates[:, 0] > 0
    scales = [s for s in (~tile, tile) if s.any()]
    shares = share_out(count, [int(s.sum()) for s in scales])
    cell = torch.zeros(len(coordinates), dtype=torch.long)
    for scale, start, share in zip(scales, accumulate([0, *shares]), shares, strict=False):
        if share:
            cell[scale] = start + _divide(coordinates[scale, 1:], share)
        else:
            cell[scale] = -1
    return cell


@checked
def grids(coordinates: Tensor) -> list[Tensor]:
    """The rectangles that an image's tokens lie on, the thumbnail's first: (H, W) indices of
    tokens.

    A clip without the tokens that repeat the frame before has none.

    Args:
        coordinates: (N, 3) crop, row, column of each token.
    """
    found = []
    for scale in (coordinates[:, 0] == 0, coordinates[:, 0] > 0):
        if scale.any():
            row, column = (coordinates[scale, 1:] - coordinates[scale, 1:].min(0).values).unbind(1)
            grid = torch.full((int(row.max()) + 1, int(column.max()) + 1), -1)
            grid[row, column] = scale.nonzero()[:, 0]
            if (grid >= 0).all():
                found.append(grid)
    return found


def _divide(coordinates: Tensor, count: int) -> Tensor:
    row, column = (coordinates - coordinates.min(0).values).unbind(1)
    height, width = int(row.max()) + 1, int(column.max()) + 1
    bands = max(
        math.ceil(count / width), min(height, count, round(math.sqrt(count * height / width)))
    )
    band = row * bands // height
    widths = torch.tensor([count // bands + (b < count % bands) for b in range(bands)])
    starts = widths.cumsum(0) - widths
    return starts[band] + column * widths[band] // width
