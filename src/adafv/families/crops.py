"""Towers that see crops of one size, and towers that see images of any shape."""

import math
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel
from transformers.vision_utils import get_vision_window_index

from adafv.core.prompt import Prompt
from adafv.families.base import Family, Inputs, Lengths, base_of, patch_grid, pixels_of
from adafv.families.crop_layout import Crop, Layout, blocks, join, prepended, raster

__all__ = ["Codes", "Crops", "Generic", "Grid", "Latents", "Shapes", "Sized", "TwoRoutes"]


@dataclass(frozen=True, kw_only=True)
class Crops(Family):
    """Crops of one size.

    Their tokens, in raster order, are squares of patches: projected, pooled or shuffled.

    Attributes:
        merge: path, in the configuration, of the side of such a square, where the encoder returns
            the features of several crops in one piece. None: each crop is a piece.
    """

    merge: str | None = None

    def layouts(
        self, model: PreTrainedModel, inputs: Inputs, prompt: Prompt | None, tokens: Lengths
    ) -> list[Layout]:
        """Return for each image, in reading order, what its placeholders stand for."""
        lead = 0 if self.merge is not None else self.lead(model, inputs)
        layouts: list[Layout] = []
        for layout in super().layouts(model, inputs, prompt, [n - lead for n in tokens]):
            # CLS and registers before the patches
            patches = prepended(layout.patches, lead)  # (lead + N, m)
            coordinates = prepended(layout.coordinates, lead)  # (lead + N, 3)
            layouts.append(replace(layout, patches=patches, coordinates=coordinates))
        return layouts

    def crops(self, model: PreTrainedModel, inputs: Inputs, tokens: Lengths) -> list[Crop]:
        """Return the crops of a batch, in the order of the tower."""
        if self.merge is not None:
            # split a piece into crops
            rows, columns = patch_grid(model, inputs)
            count = rows * columns // self._merged(model, inputs) ** 2
            tokens = [count] * (sum(tokens) // max(1, count))
        return [self._crop(model, inputs, count) for count in tokens]

    def _merged(self, model: PreTrainedModel, inputs: Inputs) -> int:
        """Return the side of the square of patches that becomes a token."""
        assert self.merge is not None
        return int(_path(model.config, self.merge))

    def _crop(self, model: PreTrainedModel, inputs: Inputs, count: int) -> Crop:
        """Return a crop of `count` tokens, each a square of patches.

        Each is a square of pixels if the tower is not looked at.
        """
        if not self.attention_observable:
            pixels = pixels_of(inputs)
            rows, columns = (1, count) if pixels is None else pixels.shape[-2:]
            edge = math.isqrt(rows * columns // max(1, count)) or 1
            return raster(rows // edge, columns // edge)

        rows, columns = patch_grid(model, inputs)
        merge = math.isqrt(rows * columns // max(1, count)) or 1
        crop = raster(rows // merge, columns // merge, merge)
        if crop.size != rows * columns:
            raise ValueError(
                f"the {rows} x {columns} patches of a crop became {count} tokens in this "
                f"{model.config.model_type!r} model: which token shows which patches is not known, "
                "prepare images in the size of its processor"
            )
        return crop


@dataclass(frozen=True, kw_only=True)
class TwoRoutes(Crops):
    """Granite Docling: on the processor's fine route a token is a square of half the side."""

    def _merged(self, model: PreTrainedModel, inputs: Inputs) -> int:
        merge = super()._merged(model, inputs)
        return merge if inputs.get("tile_fine_mask") is None else merge // 2


@dataclass(frozen=True, kw_only=True)
class Grid(Family):
    """Qwen-VL and its kin: images of any shape, packed one after another.

    m · m patches merge into a token.

    Attributes:
        together: the tower reads the patches of a token one after another; otherwise all in raster
            order.
    """

    vision: str = "visual"
    together: bool = True
    required_inputs: tuple[str, ...] = ("image_grid_thw",)

    def crops(self, model: PreTrainedModel, inputs: Inputs, tokens: Lengths) -> list[Crop]:
        """Return the images of a batch, each a crop of its own."""
        grids = inputs["image_grid_thw"]  # (I, 3): time, height, width in patches
        return [self._crop(model, grid, count) for grid, count in zip(grids, tokens, strict=True)]

    def video_layouts(
        self, model: PreTrainedModel, inputs: Inputs, prompt: Prompt | None, tokens: Lengths
    ) -> list[Layout]:
        """Return for each video what its placeholders stand for: its frames are its crops."""
        # frames that become one, in towers that merge them
        merged = getattr(model.config.vision_config, "temporal_merge_size", 1)
        found: list[Layout] = []
        for grid, count in zip(inputs["video_grid_thw"], tokens, strict=True):
            # the tower sees all frames, one below the other
            video = self._crop(model, grid, count * merged)
            seen = int(grid[0])
            frame = raster(video.height // seen, video.width)
            frames = seen // merged
            layout = join([frame] * frames, frames=frames)
            patches = video.patches.unflatten(0, (frames, merged, -1))  # (frames, merged, P, m)
            patches = patches.transpose(1, 2).reshape(frames * frame.size, -1)  # (N, merged · m)
            found.append(replace(layout, patches=patches, size=video.size))
        return found

    def _crop(self, model: PreTrainedModel, grid: Tensor, count: int) -> Crop:
        """Return the crop of an image or a video of `count` tokens."""
        time, height, width = grid.tolist()
        merge = math.isqrt(time * height * width // count)
        make = blocks if self.together else raster
        crop = make(time * height // merge, width // merge, merge)

        # a tower that attends within windows reads tokens window after window
        vision = model.config.vision_config
        window = getattr(vision, "window_size", None)
        if window is None:
            return crop
        order = get_vision_window_index(grid[None], merge, window, vision.patch_size)[0]  # (N,)
        return replace(crop, patches=crop.patches[order.argsort()])


@dataclass(frozen=True, kw_only=True)
class Sized(Family):
    """Pixtral's tower: images of any shape, packed in raster order, their sizes given in pixels."""

    required_inputs: tuple[str, ...] = ("image_sizes",)

    def crops(self, model: PreTrainedModel, inputs: Inputs, tokens: Lengths) -> list[Crop]:
        """Return the images of a batch, each a crop of its own."""
        merge = getattr(model.config, "spatial_merge_size", 1)
        edge = model.config.vision_config.patch_size * merge  # pixels of a token
        sizes = inputs["image_sizes"]  # (I, 2)
        return [raster(int(height) // edge, int(width) // edge, merge) for height, width in sizes]


@dataclass(frozen=True, kw_only=True)
class Shapes(Family):
    """Crops of any shape, each padded to the longest, their shapes given in patches.

    Where there are no pixels among the inputs, nothing is padded.

    Attributes:
        shapes: name of the input that holds (crops, 2) rows and columns of patches.
        merge: path, in the configuration, of the side of the square of patches that becomes a
            token.
    """

    shapes: str = "spatial_shapes"
    merge: str = "downsample_factor"

    def crops(self, model: PreTrainedModel, inputs: Inputs, tokens: Lengths) -> list[Crop]:
        """Return the crops of a batch, in the order of the tower."""
        merge = _path(model.config, self.merge)
        pixels = inputs.get("pixel_values")
        padded = None if pixels is None else pixels.shape[1]  # patches of the longest crop
        crops: list[Crop] = []
        for height, width in inputs[self.shapes]:
            crops.append(raster(int(height) // merge, int(width) // merge, merge, padded))
        return crops


@dataclass(frozen=True, kw_only=True)
class Generic(Family):
    """A family without tests: every piece of the encoder's features is an image, in one row."""

    attention_observable: bool = False

    @property
    def has_grid(self) -> bool:
        """Return false: coordinates are not known."""
        return False

    def crops(self, model: PreTrainedModel, inputs: Inputs, tokens: Lengths) -> list[Crop]:
        """Return each piece of the features as a crop."""
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
        """Return false: a token has no coordinates in the image."""
        return False

    def crops(self, model: PreTrainedModel, inputs: Inputs, tokens: Lengths) -> list[Crop]:
        """Return the crops of a batch, in the order of the tower."""
        if self.count is not None:
            # split a piece into crops
            count = _path(model.config, self.count)
            tokens = [count] * (sum(tokens) // count)
        return [self._row(count) for count in tokens]

    def _row(self, count: int) -> Crop:
        """Return a crop of `count` tokens in a row, of which the closing ones are no patches."""
        size = count - self.closing
        index = torch.arange(count)  # (count,)
        patches = index.where(index < size, -1)[:, None]  # (count, 1)
        return Crop(patches, 1, count, size)


@dataclass(frozen=True, kw_only=True)
class Codes(Family):
    """Images of any shape as codes of a codebook: row after row, each closed by a newline."""

    attention_observable: bool = False
    required_inputs: tuple[str, ...] = ("image_sizes",)

    def crops(self, model: PreTrainedModel, inputs: Inputs, tokens: Lengths) -> list[Crop]:
        """Return the images of a batch, each a crop of its own."""
        edge = base_of(model).vqmodel.vision_spatial_factor  # pixels of a code
        sizes = inputs["image_sizes"]  # (I, 2)
        return [self._rows(int(height) // edge, int(width) // edge) for height, width in sizes]

    def _rows(self, height: int, width: int) -> Crop:
        """Return a crop of rows of codes, each closed by a newline."""
        index = torch.arange(height * width).view(height, width)
        patches = F.pad(index, (0, 1), value=-1).view(-1, 1)  # (height · (width + 1), 1)
        return Crop(patches, height, width + 1, height * width)


def _path(root: Any, path: str) -> Any:
    """Return what a dotted path of names leads to."""
    return reduce(getattr, path.split("."), root)
