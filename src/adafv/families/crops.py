"""Towers that see square crops of one size, and towers that see pictures of any shape."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

from transformers import PreTrainedModel

from adafv.families.base import Crop, Family, blocks, raster, side

__all__ = ["Crops", "Grid", "Shapes", "Sized"]


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
        merge: path of m in the configuration.
        together: the tower reads the patches of a token one after another; otherwise all in raster order.
        windows: the tower reads window after window; its method tells their order.
    """

    vision: str = "visual"
    merge: str = "vision_config.spatial_merge_size"
    together: bool = True
    windows: bool = False

    def crops(self, model: PreTrainedModel, inputs: Mapping[str, Any], tokens: Sequence[int]) -> list[Crop]:
        merge = _path(model.config, self.merge)
        merge = merge if isinstance(merge, int) else merge[0]
        make = blocks if self.together else raster
        found = []
        for grid in inputs["image_grid_thw"].cpu():
            time, height, width = grid.tolist()
            crop = make(time * height // merge, width // merge, merge)
            if self.windows:
                tower: Any = self.tower(model)
                order = tower.get_window_index(grid[None])[0].cpu()
                crop = Crop(crop.patches[order.argsort()], crop.height, crop.width, crop.size)
            found.append(crop)
        return found


@dataclass(frozen=True, kw_only=True)
class Sized(Family):
    """Pixtral's tower: pictures of any shape, packed in raster order, their sizes given in pixels."""

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


def _path(root: Any, path: str) -> Any:
    return reduce(getattr, path.split("."), root)
