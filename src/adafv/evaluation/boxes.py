"""Which visual tokens show what a question is about, from the boxes of an image."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from adafv.data.sample import Box
from adafv.utils.checks import checked
from adafv.viz.grid_box import grid_box
from adafv.viz.grids import scales

__all__ = ["distances", "evidence_kept", "patches"]


@checked
def patches(processor: Any, size: tuple[int, int], coordinates: Tensor) -> NDArray[Any]:
    """Return the middle of each token's patch, and half its width and height, in pixels.

    Args:
        size: width and height of the image.
        coordinates: (N, 3) crop, row and column of its tokens.

    Returns:
        (N, 4) x, y, half width and half height.
    """
    # the part of the image that the processor shows the tower
    left, top, right, bottom = grid_box(processor, size, coordinates)
    # in the order of the tokens, whatever their grid
    found = np.empty((len(coordinates), 4))
    # thumbnail and tiles have grids of their own over the same part
    for scale in scales(coordinates):
        rows, columns = scale.shape
        row = scale.coordinates[:, 0] + 0.5
        column = scale.coordinates[:, 1] + 0.5
        found[scale.index, 0] = left + column * (right - left) / columns
        found[scale.index, 1] = top + row * (bottom - top) / rows
        found[scale.index, 2] = (right - left) / columns / 2
        found[scale.index, 3] = (bottom - top) / rows / 2
    return found


@checked
def distances(patches: NDArray[Any], boxes: tuple[Box, ...]) -> Tensor:
    """Return how far each token's middle is from that of each box, in pixels; outside it inf.

    A box that lies between the middles has the tokens whose patches hold its own middle.

    Args:
        patches: (N, 4), see `patches`.
        boxes: left, top, right and bottom of each.

    Returns:
        (N, boxes) fp64.
    """
    distance = np.full((len(patches), len(boxes)), np.inf)  # (N, boxes)
    x, y, half_width, half_height = patches.T  # (N,) each
    for i, (left, top, right, bottom) in enumerate(boxes):
        # the far edges belong to the next box, so that no token lies in two that touch
        inside = (left <= x) & (x < right) & (top <= y) & (y < bottom)  # (N,)
        across = x - (left + right) / 2
        down = y - (top + bottom) / 2
        if not inside.any():
            inside = (abs(across) <= half_width) & (abs(down) <= half_height)
        from_middle = np.hypot(across, down)
        distance[inside, i] = from_middle[inside]
    return torch.from_numpy(distance)


@checked
def evidence_kept(distance: Tensor, kept: Tensor) -> float | None:
    """Return the share of the tokens in a question's boxes that are kept.

    Args:
        distance: (N, boxes) as `distances` returns them.
        kept: (K,) indices.

    Returns:
        None: no token lies in a box, as where the processor cuts it off.
    """
    inside = distance.isfinite().any(1)  # (N,)
    count = int(inside.sum())
    return int(inside[kept].sum()) / count if count else None
