"""Where on an image the grid of its visual tokens lies, from what its processor does to it."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from adafv.utils.checks import checked

__all__ = ["grid_box"]


@checked
def grid_box(
    processor: Any, size: tuple[int, int], coordinates: NDArray[Any] | Tensor
) -> tuple[float, float, float, float]:
    """Return where the grid of an image's tokens lies: left, top, right, bottom in its pixels.

    A thumbnail and its tiles show all of the image. A single crop shows less of it where the
    processor cuts the middle out, and lies beyond its edges where the processor pads it.

    Args:
        size: width and height of the image.
        coordinates: (N, 3) crop, row, column of its tokens.
    """
    width, height = size
    images = processor.image_processor
    has_tiles = int(np.asarray(coordinates)[:, 0].max()) > 0
    if has_tiles:
        return 0.0, 0.0, float(width), float(height)
    # Kimi's alone says so how large an image may be
    if (getattr(images, "size", None) or {}).get("max_height"):
        return 0.0, 0.0, *_padded_to_tokens(images, size)
    across, down = _around_the_middle(images, size)
    left, top = (width - across) / 2, (height - down) / 2
    return left, top, left + across, top + down


def _around_the_middle(images: Any, size: tuple[int, int]) -> tuple[float, float]:
    """Return width and height of a grid with the image's middle: padded to a square, then cut."""
    across, down = map(float, size)
    if getattr(images, "do_pad", False) and hasattr(images, "pad_to_square"):
        across = down = max(across, down)
    crop = getattr(images, "crop_size", None)
    if not getattr(images, "do_center_crop", False) or not crop:
        return across, down
    of_width, of_height = _pixel(images, across, down)
    return crop["width"] * of_width, crop["height"] * of_height


def _pixel(images: Any, width: float, height: float) -> tuple[float, float]:
    """Return width and height of a pixel that a processor crops from, in pixels of the image."""
    if not getattr(images, "do_resize", True):
        return 1.0, 1.0
    edge = images.size.get("shortest_edge")
    if edge:
        return min(width, height) / edge, min(width, height) / edge
    return width / images.size["width"], height / images.size["height"]


def _padded_to_tokens(images: Any, size: tuple[int, int]) -> tuple[float, float]:
    """Return how far the grid of Kimi's tokens reaches, right and down, in pixels of the image.

    Its processor makes large images smaller, small ones never larger, and pads on the right and
    below to whole tokens.
    """
    edge = images.patch_size
    token = edge * images.merge_size
    longest = images.size["max_height"] * edge
    width, height = size
    patches = max(1, width // edge) * max(1, height // edge)
    scale = min(1.0, math.sqrt(images.max_patches / patches), longest / max(size))

    reach = []
    for side in size:
        scaled = max(1, int(side * scale))
        reach.append(math.ceil(scaled / token) * token * side / scaled)
    return reach[0], reach[1]
