"""Which visual tokens show what a question is about, from the boxes of an image."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from adafv.data.sample import Box
from adafv.utils.checks import checked
from adafv.viz.regions import scales, view

__all__ = ["centers", "distances"]


@checked
def centers(processor: Any, size: tuple[int, int], coordinates: Tensor) -> NDArray[Any]:
    """(N, 2) x and y, in pixels of an image of `size` (width, height), of the middle of each
    token's patch.
    """
    left, top, right, bottom = view(processor, size, coordinates)
    place = np.empty((len(coordinates), 2))
    for scale in scales(coordinates):
        rows, columns = scale.shape
        place[scale.index, 0] = left + (scale.coordinates[:, 1] + 0.5) * (right - left) / columns
        place[scale.index, 1] = top + (scale.coordinates[:, 0] + 0.5) * (bottom - top) / rows
    return place


@checked
def distances(centers: NDArray[Any], boxes: tuple[Box, ...]) -> Tensor:
    """(N, boxes): how far each token's middle is from the middle of each box it lies in, in pixels;
    inf outside.
    """
    distance = np.full((len(centers), len(boxes)), np.inf)
    for i, (left, top, right, bottom) in enumerate(boxes):
        x, y = centers.T
        inside = (left <= x) & (x < right) & (top <= y) & (y < bottom)
        distance[inside, i] = np.hypot(x - (left + right) / 2, y - (top + bottom) / 2)[inside]
    return torch.from_numpy(distance)
