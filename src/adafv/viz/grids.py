"""Grid coordinates of visual tokens on an image: arrays in, arrays out."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from adafv.utils.checks import checked

__all__ = ["Maps", "Scale", "ranges", "scales", "shade", "token_map"]

Array = NDArray[Any]
SOFT = 0.7  # power of a score: at 1 the peaks would be all there is to see


@dataclass(frozen=True)
class Scale:
    """The tokens of an image that lie on one grid.

    Attributes:
        index: (n,) which of the image's tokens.
        coordinates: (n, 2) row and column of each, counted from the first that is there.
        shape: rows and columns of the grid.
    """

    index: Array  # (n,)
    coordinates: Array  # (n, 2)
    shape: tuple[int, int]

    def map(self, values: Array) -> Array:
        """Lay values (N,) of all the image's tokens out on this grid, NaN where it has no token."""
        return token_map(self.coordinates, values[self.index], self.shape)


@dataclass(frozen=True)
class Maps:
    """The scores that led to a choice, and the choice, on one grid of an image.

    Where the grid has no token scores are NaN and `kept` is False.

    Attributes:
        box: left, top, right, bottom of the grid, in pixels of the image; beyond it lies padding.
        saliency: (rows, columns) a_v; None where the method doesn't use it.
        relevance: (rows, columns) a_t; None where the method doesn't use it.
        words: (W, rows, columns) attention of each word of the question, in its order; W is 0 where
            the method doesn't read it.
        kept: (rows, columns) bool.
    """

    box: tuple[float, float, float, float]
    saliency: Array | None
    relevance: Array | None
    words: Array
    kept: NDArray[np.bool_]


@checked
def shade(scale: Scale, values: Array) -> Array:
    """Compute how strongly (0 to 1) each cell of a grid is painted for scores (N,).

    All grids of an image share one scale.
    """
    share = np.nan_to_num(scale.map(values)) / max(values.max(), 1e-30)  # (rows, columns)
    return share**SOFT


@checked
def token_map(coordinates: Array | Tensor, values: Array | Tensor, shape: tuple[int, int]) -> Array:
    """Lay values of visual tokens out as an image.

    Args:
        coordinates: (N, 2) row and column of each token, or (N, 3) with the crop in front, which is
            ignored.
        values: (N,) numbers.
        shape: rows and columns of the map.

    Returns:
        A float array of that shape; NaN where there is no token.

    Raises:
        ValueError: a token lies outside, or there are not as many values as tokens.
    """
    cells = np.asarray(coordinates)[:, -2:]  # (N, 2)
    numbers = np.asarray(values, dtype=float)  # (N,)
    if len(cells) != len(numbers):
        raise ValueError(f"{len(numbers)} values for {len(cells)} tokens: pass one for each")
    if len(cells) and ((cells < 0).any() or (cells >= shape).any()):
        raise ValueError(
            f"shape={shape} is too small: row and column go up to {tuple(cells.max(0).tolist())}"
        )

    laid_out = np.full(shape, np.nan)
    laid_out[cells[:, 0], cells[:, 1]] = numbers
    return laid_out


@checked
def scales(coordinates: Array | Tensor) -> list[Scale]:
    """Find the grids on which an image's tokens lie, the finest first.

    Args:
        coordinates: (N, 3) crop, row, column as in `VisualTokens.coordinates`. With several crops,
            crop 0 is a thumbnail; the others are tiles of one grid. Padding was cut from that grid,
            so what is there spans the whole image.
    """
    tokens = np.asarray(coordinates)  # (N, 3)
    in_tile = tokens[:, 0] > 0
    found = []
    for member in (in_tile, ~in_tile):
        if member.any():
            cells = tokens[member, 1:] - tokens[member, 1:].min(0)  # (n, 2), from the first cell
            rows, columns = (cells.max(0) + 1).tolist()
            found.append(Scale(np.flatnonzero(member), cells, (rows, columns)))
    return found


@checked
def ranges(indices: Sequence[int]) -> str:
    """Write ascending indices shortly: `0-3, 7, 9-12`."""
    runs: list[list[int]] = []
    for index in indices:
        if runs and index == runs[-1][-1] + 1:
            runs[-1].append(index)
        else:
            runs.append([index])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
