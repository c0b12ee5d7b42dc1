"""Towers that see square crops of one size, and towers that see pictures of any shape."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

from adafv.families.base import Crop, Family, Layout, blocks, join, raster, side
from adafv.layout import Prompt

__all__ = ["Crops", "Generic", "Grid", "Shapes", "Sized"]


@dataclass(frozen=True, kw_only=True)
class Crops(Family):
    """Square crops of one size. Their tokens, in raster order, are squares of patches: projected, pooled or shuffled.

    Attributes:
        merge: path, in the configuration, of the side of such a square, where the encoder returns the features of
            several crops in one piece. None: each crop is a piece.
    """

    merge: str | None = None

    def crops(self, model: PreTrainedModel, inputs: Mapping[str, Any], tokens: Sequence[int]) -> list[Crop]:
        if self.merge is not None:
            count = (side(model) // _path(model.config, self.merge)) ** 2
            tokens = [count] * (sum(tokens) // count)
        return [self._square(model, count) for count in tokens]

    def _square(self, model: PreTrainedModel, count: int) -> Crop:
        edge = math.isqrt(count)
        return raster(edge, edge, side(model) // edge if self.attends else 1)


@dataclass(frozen=True, kw_only=True)
class Grid(Family):
    """Qwen-VL and its kin: pictures of any shape, packed one after another; m · m patches merge into a token.

    Attributes:
        together: the tower reads the patches of a token one after another; otherwise all in raster order.
        windows: the tower reads window after window; its method tells their order.
    """

    vision: str = "visual"
    together: bool = True
    windows: bool = False
    needs: tuple[str, ...] = ("image_grid_thw",)

    def crops(self, model: PreTrainedModel, inputs: Mapping[str, Any], tokens: Sequence[int]) -> list[Crop]:
        grids = inputs["image_grid_thw"].cpu()
        return [self._crop(model, grid, count) for grid, count in zip(grids, tokens, strict=True)]

    def clips(
        self, model: PreTrainedModel, inputs: Mapping[str, Any], prompt: Prompt, tokens: Sequence[int]
    ) -> list[Layout]:
        found = []
        for grid, count in zip(inputs["video_grid_thw"].cpu(), tokens, strict=True):
            whole, frames = self._crop(model, grid, count), int(grid[0])
            frame = raster(whole.height // frames, whole.width)
            found.append(replace(join([frame] * frames, frames=frames), patches=whole.patches, size=whole.size))
        return found

    def _crop(self, model: PreTrainedModel, grid: Tensor, count: int) -> Crop:
        time, height, width = grid.tolist()
        merge = math.isqrt(time * height * width // count)
        crop = (blocks if self.together else raster)(time * height // merge, width // merge, merge)
        if not self.windows:
            return crop
        tower: Any = self.tower(model)
        order = tower.get_window_index(grid[None])[0].cpu()
        return replace(crop, patches=crop.patches[order.argsort()])


@dataclass(frozen=True, kw_only=True)
class Sized(Family):
    """Pixtral's tower: pictures of any shape, packed in raster order, their sizes given in pixels."""

    needs: tuple[str, ...] = ("image_sizes",)

    def crops(self, model: PreTrainedModel, inputs: Mapping[str, Any], tokens: Sequence[int]) -> list[Crop]:
        merge = getattr(model.config, "spatial_merge_size", 1)
        edge = model.config.vision_config.patch_size * merge
        return [raster(int(h) // edge, int(w) // edge, merge) for h, w in inputs["image_sizes"]]


@dataclass(frozen=True, kw_only=True)
class Shapes(Family):
    """Crops of any shape, each padded to the longest, their shapes given in patches.

    Attributes:
        shapes: name of the input that holds (crops, 2) rows and columns of patches.
        merge: path, in the configuration, of the side of the square of patches that becomes a token.
    """

    shapes: str = "spatial_shapes"
    merge: str = "downsample_factor"

    def crops(self, model: PreTrainedModel, inputs: Mapping[str, Any], tokens: Sequence[int]) -> list[Crop]:
        merge, size = _path(model.config, self.merge), inputs["pixel_values"].shape[1]
        return [raster(int(h) // merge, int(w) // merge, merge, size) for h, w in inputs[self.shapes]]


@dataclass(frozen=True, kw_only=True)
class Generic(Family):
    """A family that nobody has looked at: every piece of the encoder's features is an image, in one row."""

    attends: bool = False

    def crops(self, model: PreTrainedModel, inputs: Mapping[str, Any], tokens: Sequence[int]) -> list[Crop]:
        return [raster(1, count) for count in tokens]


def _path(root: Any, path: str) -> Any:
    return reduce(getattr, path.split("."), root)
