"""The surface that maps are drawn on: an image, or the frames of a video side by side."""

from dataclasses import dataclass
from typing import Any

from PIL import Image

from adafv.core.visual_tokens import Encoding
from adafv.families.base import Family
from adafv.models.videos import Video
from adafv.utils.checks import checked
from adafv.viz.frames import montage, on_montage
from adafv.viz.grid_box import grid_box
from adafv.viz.grids import Scale, scales

__all__ = ["Surface", "edges", "surface_of"]

Box = tuple[float, float, float, float]
"""Left, top, right and bottom, in pixels of an image."""


@dataclass(frozen=True)
class Surface:
    """An image, and where on it the tokens lie.

    Attributes:
        image: or a video's frames side by side.
        box: of the finest grid.
        grids: the finest first; none where it is not known where tokens lie.
        frames: of a video; 0 for an image.
    """

    image: Image.Image
    box: Box
    grids: list[Scale]
    frames: int = 0


@checked
def surface_of(
    family: Family, processor: Any, image: Image.Image | Video, encoding: Encoding
) -> Surface:
    """Return what the maps of an encoded image or video are drawn on."""
    coordinates = encoding.tokens.coordinates[0]  # (N, 3)
    if isinstance(image, Video):
        _, height, width, _ = image.frames.shape
        frames = encoding.tokens.frames[0]
        grid, across = on_montage(coordinates, width / height, frames)
        shown = montage(image, processor, across, frames)
        return Surface(shown, edges(shown), [grid], frames)
    if family.has_grid:
        return Surface(image, grid_box(processor, image.size, coordinates), scales(coordinates))
    return Surface(image, edges(image), [])


@checked
def edges(image: Image.Image) -> Box:
    """Return the edges of an image."""
    return 0.0, 0.0, float(image.width), float(image.height)
