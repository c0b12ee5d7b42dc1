"""Towers that see crops of one size, and towers that see images of any shape."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.vision_utils import get_vision_window_index

from adafv.core.prompt import Prompt
from adafv.families.base import (
    Crop,
    Family,
    Layout,
    base_of,
    behind,
    blocks,
    join,
    patch_grid,
    pixels_of,
    raster,
)

__all__ = ["Codes", "Crops", "Generic", "Grid", "Latents", "Shapes", "Sized", "TwoRoutes"]


@dataclass(frozen=True, kw_only=True)
class Crops(Family):
    """Crops of one size. Their tokens, in raster order, are squares of patches: projected, pooled
    or shuffled.

    Attributes:
        merge: path, in the configuration, of the side of such a square, where the encoder returns
            the features of several crops in one piece. None: each crop is a piece.
    """

    merge: str | None = None

    def layouts(
        self,
        model: PreTrainedModel,
        inputs: Mapping[str, Any],
        prompt: Prompt,
        tokens: Sequence[int],
    ) -> list[Layout]:
        lead = 0 if self.merge is not None else self.lead(model, inputs)
        found = super().layouts(model, inputs, prompt, [n - lead for n in tokens])
        return [
            replace(x, patches=behind(x.patches, lead), coordinates=behind(x.coordinates, lead))
            for x in found
        ]

    def crops(
        self, model: PreTrainedModel, inputs: Mapping[str, Any], tokens: Sequence[int]
    ) -> list[Crop]:
        if self.merge is not None:
            rows, columns = patch_grid(model, inputs)
            count = rows * columns // self._merged(model, inputs) ** 2
            tokens = [count] * (sum(tokens) // max(1, count))
        return [self._crop(model, inputs, count) for count in tokens]

    def _merged(self, model: PreTrainedModel, inputs: Mapping[str, Any]) -> int:
        assert self.merge is not None
        return _path(model.config, self.merge)

    def _crop(self, model: PreTrainedModel, inputs: Mapping[str, Any], count: int) -> Crop:
        """A crop of `count` tokens, each a square of patches, or of pixels where the tower is not
        looked at.
        """
        pixels = pixels_of(inputs)
        if self.attention_observable:
            rows, columns = patch_grid(model, inputs)
        else:
            rows, columns = (1, count) if pixels is None else pixels.shape[-2:]
        merge = math.isqrt(rows * columns // max(1, count)) or 1
        crop = raster(rows // merge, columns // merge, merge if self.attention_observable else 1)
        if self.attention_observable and crop.size != rows * columns:
            raise ValueError(
                f"the {rows} x {columns} patches of a crop became {count} tokens in this {model.config.model_type!r} "
                "model: which token shows which patches is not known, prepare images in the size of its processor"
            )
        return crop


@dataclass(frozen=True, kw_only=True)
class TwoRoutes(Crops):
    """Granite Docling: where the processor chose the fine route, a token is a square of half the
    side.
    """

    def _merged(self, model: PreTrainedModel, inputs: Mapping[str, Any]) -> int:
        merge = super()._merged(model, inputs)
        return merge if inputs.get("tile_fine_mask") is None else merge // 2


@dataclass(frozen=True, kw_only=True)
class Grid(Family):
    """Qwen-VL and its kin: images of any shape, packed one after another; m · m patches merge
    into a token.

    Attributes:
        together: the tower reads the patches of a token one after another; otherwise all in raster
            order.
    """

    vision: str = "visual"
    together: bool = True
    required_inputs: tuple[str, ...] = ("image_grid_thw",)

    def crops(
        self, model: PreTrainedModel, inputs: Mapping[str, Any], tokens: Sequence[int]
    ) -> list[Crop]:
        grids = inputs["image_grid_thw"]
        return [self._crop(model, grid, count) for grid, count in zip(grids, tokens, strict=True)]

    def video_layouts(
        self,
        model: PreTrainedModel,
        inputs: Mapping[str, Any],
        prompt: Prompt,
        tokens: Sequence[int],
    ) -> list[Layout]:
        found = []
        for grid, count in zip(inputs["video_grid_thw"], tokens, strict=True):
            no_layerwise_reason, frames = self._crop(model, grid, count), int(grid[0])
            frame = raster(no_layerwise_reason.height // frames, no_layerwise_reason.width)
            found.append(
                replace(
                    join([frame] * frames, frames=frames),
                    patches=no_layerwise_reason.patches,
                    size=no_layerwise_reason.size,
                )
            )
        return found

    def _crop(self, model: PreTrainedModel, grid: Tensor, count: int) -> Crop:
        time, height, width = grid.tolist()
        merge = math.isqrt(time * height * width // count)
        crop = (blocks if self.together else raster)(time * height // merge, width // merge, merge)
        vision = model.config.vision_config
        if (window := getattr(vision, "window_size", None)) is None:
            return crop
        order = get_vision_window_index(grid[None], merge, window, vision.patch_size)[0]
        return replace(crop, patches=crop.patches[order.argsort()])


@dataclass(frozen=True, kw_only=True)
class Sized(Family):
    """Pixtral's tower: images of any shape, packed in raster order, their sizes given in pixels."""

    required_inputs: tuple[str, ...] = ("image_sizes",)

    def crops(
        self, model: PreTrainedModel, inputs: Mapping[str, Any], tokens: Sequence[int]
    ) -> list[Crop]:
        merge = getattr(model.config, "spatial_merge_size", 1)
        edge = model.config.vision_config.patch_size * merge
        return [raster(int(h) // edge, int(w) // edge, merge) for h, w in inputs["image_sizes"]]


@dataclass(frozen=True, kw_only=True)
class Shapes(Family):
    """Crops of any shape, each padded to the longest, their shapes given in patches.

    Attributes:
        shapes: name of the input that holds (crops, 2) rows and columns of patches.
        merge: path, in the configuration, of the side of the square of patches that becomes a
            token.
    """

    shapes: str = "spatial_shapes"
    merge: str = "downsample_factor"

    def crops(
        self, model: PreTrainedModel, inputs: Mapping[str, Any], tokens: Sequence[int]
    ) -> list[Crop]:
        merge, size = _path(model.config, self.merge), inputs["pixel_values"].shape[1]
        return [
            raster(int(h) // merge, int(w) // merge, merge, size) for h, w in inputs[self.shapes]
        ]


@dataclass(frozen=True, kw_only=True)
class Generic(Family):
    """A family that nobody has looked at: every piece of the encoder's features is an image, in one
    row.
    """

    attention_observable: bool = False

    @property
    def has_grid(self) -> bool:
        return False

    def crops(
        self, model: PreTrainedModel, inputs: Mapping[str, Any], tokens: Sequence[int]
    ) -> list[Crop]:
        return [raster(1, count) for count in tokens]


@dataclass(frozen=True, kw_only=True)
class Latents(Family):
    """Crops that a resampler sums up: its tokens look at all patches and lie in one row.

    Attributes:
        count: path, in the configuration, of how many tokens a crop becomes, where the encoder
            returns the features of several crops in one piece. None: each crop is a piece.
        closing: how many tokens at the end of a crop stand for no part of it.
    """

    attention_observable: bool = False
    count: str | None = None
    closing: int = 0

    @property
    def has_grid(self) -> bool:
        return False

    def crops(
        self, model: PreTrainedModel, inputs: Mapping[str, Any], tokens: Sequence[int]
    ) -> list[Crop]:
        if self.count is not None:
            count = _path(model.config, self.count)
            tokens = [count] * (sum(tokens) // count)
        return [self._row(count) for count in tokens]

    def _row(self, count: int) -> Crop:
        index = torch.arange(count)
        return Crop(
            index.where(index < count - self.closing, -1)[:, None], 1, count, count - self.closing
        )


@dataclass(frozen=True, kw_only=True)
class Codes(Family):
    """Images of any shape as codes of a codebook: row after row, each closed by a newline."""

    attention_observable: bool = False
    required_inputs: tuple[str, ...] = ("image_sizes",)

    def crops(
        self, model: PreTrainedModel, inputs: Mapping[str, Any], tokens: Sequence[int]
    ) -> list[Crop]:
        factor = base_of(model).vqmodel.vision_spatial_factor
        return [
            self._rows(int(height) // factor, int(width) // factor)
            for height, width in inputs["image_sizes"]
        ]

    def _rows(self, height: int, width: int) -> Crop:
        index = torch.nn.functional.pad(
            torch.arange(height * width).view(height, width), (0, 1), value=-1
        )
        return Crop(index.view(-1, 1), height, width + 1, height * width)


def _path(root: Any, path: str) -> Any:
    return reduce(getattr, path.split("."), root)
