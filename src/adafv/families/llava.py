"""LLaVA: one crop (1.5), or a thumbnail and a grid of tiles packed into one image.

The latter are NeXT and OneVision. Letters: P patches of a crop, n placeholders of an image.
"""

from dataclasses import dataclass, replace
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel
from transformers.models.llava_next.modeling_llava_next import (
    get_anyres_image_grid_shape,
    image_size_to_num_patches,
)

from adafv.core.prompt import Prompt
from adafv.families.base import Family, Inputs, Lengths, base_of, patch_grid
from adafv.families.crop_layout import Crop, Layout, grid_coordinates, join, prepended
from adafv.families.crops import Crops, Sized

__all__ = ["AnyRes", "Llava", "VideoLlava"]


@dataclass(frozen=True, kw_only=True)
class Llava(Crops):
    """Haotian Liu et al., arXiv 2310.03744: every image is one crop.

    With Pixtral's tower: of any shape.
    """

    def layouts(
        self, model: PreTrainedModel, inputs: Inputs, prompt: Prompt | None, tokens: Lengths
    ) -> list[Layout]:
        """Return for each image, in reading order, what its placeholders stand for."""
        if model.config.vision_config.model_type == "pixtral":
            return Sized().layouts(model, inputs, prompt, tokens)
        return super().layouts(model, inputs, prompt, tokens)


@dataclass(frozen=True, kw_only=True)
class VideoLlava(Crops):
    """Bin Lin et al., arXiv 2311.10122: a tower for images and one for videos.

    Of a video's frames every token of the tower stays, CLS before the patches of each.
    """

    vision: str = "image_tower"
    video_vision: str = "video_tower"

    def video_layouts(
        self, model: PreTrainedModel, inputs: Inputs, prompt: Prompt | None, tokens: Lengths
    ) -> list[Layout]:
        """Return for each video what its placeholders stand for: its frames are its crops."""
        pixels = inputs["pixel_values_videos"]  # (V, frames, 3, height, width)
        videos, frames = pixels.shape[:2]
        lead = self._before_patches(model)
        frame = self._crop(model, {"pixel_values": pixels}, tokens[0] - lead)
        layout = join([frame] * frames, frames=frames)

        # CLS before the patches of each frame
        of_frames = []
        for x in (layout.patches, layout.coordinates):
            x = prepended(x.unflatten(0, (frames, -1)), lead)  # (frames, lead + P, m)
            of_frames.append(x.flatten(0, 1))  # (frames · (lead + P), m)
        patches, coordinates = of_frames
        return [replace(layout, patches=patches, coordinates=coordinates)] * videos


@dataclass(frozen=True, kw_only=True)
class AnyRes(Family):
    """LLaVA-NeXT: thumbnail first, then the tiles of the best-fitting grid, newlines after rows.

    The tiles are unpadded. OneVision shrinks a large grid of tiles to fewer tokens than patches: a
    token stands for the patch at its centre.
    """

    required_inputs: tuple[str, ...] = ("image_sizes",)

    @property
    def of_videos(self) -> Self:
        """Return the same family, without the sizes of images: all frames are of one."""
        return replace(self, required_inputs=())

    def layouts(
        self, model: PreTrainedModel, inputs: Inputs, prompt: Prompt | None, tokens: Lengths
    ) -> list[Layout]:
        """Return for each image, in reading order, what its placeholders stand for."""
        sizes = inputs["image_sizes"].cpu()  # (I, 2)
        crops = self._crop_counts(model, inputs, sizes)
        edges = patch_grid(model, inputs)  # rows and columns of a crop
        lead = self.lead(model, inputs)

        # the model packs coordinates as it packs features
        coordinates: list[Tensor] = []
        for size, count in zip(sizes, crops, strict=True):
            of_patches = self._coordinates(model, size, count, edges)  # (crops, P, 3)
            coordinates.append(prepended(of_patches, lead))
        packed = self._packed(model, inputs, coordinates, sizes)  # I times (n, 3)

        layouts: list[Layout] = []
        for size, count, of_image in zip(sizes, crops, packed, strict=True):
            layouts.append(self._layout(model, size, count, edges, of_image))
        return layouts

    def video_layouts(
        self, model: PreTrainedModel, inputs: Inputs, prompt: Prompt | None, tokens: Lengths
    ) -> list[Layout]:
        """Return for each video what its placeholders stand for: its frames are its crops.

        The model pools the patches of a frame; OneVision puts one newline behind all frames.
        """
        pixels = inputs["pixel_values_videos"]  # (V, frames, 3, height, width)
        videos, frames = pixels.shape[:2]
        rows, columns = patch_grid(model, {"pixel_values": pixels})
        stride = getattr(model.config, "spatial_pool_stride", None)
        layout = join([_pooled(rows, columns, stride)] * frames, frames=frames)
        if stride is None:
            patches = F.pad(layout.patches, (0, 0, 0, 1), value=-1)  # (n + 1, m)
            coordinates = F.pad(layout.coordinates, (0, 0, 0, 1), value=-1)  # (n + 1, 3)
            layout = replace(layout, patches=patches, coordinates=coordinates)
        return [layout] * videos

    def _crop_counts(self, model: PreTrainedModel, inputs: Inputs, sizes: Tensor) -> list[int]:
        """Return how many crops each image has: one if several images are in one prompt."""
        # OneVision says how many images each prompt has
        alone = [True] * len(sizes)
        if inputs.get("batch_num_images") is not None:
            alone = []
            for number in inputs["batch_num_images"]:
                alone += [bool(number == 1)] * int(number)

        pinpoints = model.config.image_grid_pinpoints
        edge = model.config.vision_config.image_size
        counts: list[int] = []
        for size, is_alone in zip(sizes, alone, strict=True):
            counts.append(image_size_to_num_patches(size, pinpoints, edge) if is_alone else 1)
        return counts

    def _coordinates(
        self, model: PreTrainedModel, size: Tensor, crops: int, edges: tuple[int, int]
    ) -> Tensor:
        """Return the scale, row and column (crops, P, 3) of every patch.

        The scale is 0 in the thumbnail, 1 in the tiles.

        Args:
            edges: rows and columns of a crop.
        """
        in_crop = grid_coordinates(*edges)  # (P, 2)
        origins = torch.zeros(1, 2, dtype=torch.long)
        if crops > 1:
            # the tiles side by side
            tiles = grid_coordinates(*self._tiles(model, size))  # (crops - 1, 2)
            origins = torch.cat([origins, tiles * torch.tensor(edges)])  # (crops, 2)
        scale = (torch.arange(crops) > 0).long()[:, None, None]  # (crops, 1, 1)
        scale = scale.expand(-1, len(in_crop), 1)  # (crops, P, 1)
        return torch.cat([scale, origins[:, None] + in_crop], dim=2)

    def _packed(
        self,
        model: PreTrainedModel,
        inputs: Inputs,
        coordinates: list[Tensor],
        sizes: Tensor,
    ) -> list[Tensor]:
        """Return coordinates (n, 3) as the model packs features; -1 for newlines."""
        config = model.config
        options: dict[str, Any] = {"image_newline": torch.full((3,), -1.0)}
        if hasattr(config, "vision_aspect_ratio"):
            # OneVision
            options["vision_aspect_ratio"] = config.vision_aspect_ratio
        else:
            # NeXT
            strategy = inputs.get("vision_feature_select_strategy")
            strategy = strategy or config.vision_feature_select_strategy
            options["vision_feature_select_strategy"] = strategy
        pack = base_of(model).pack_image_features
        packed, _ = pack([x.float() for x in coordinates], sizes, **options)
        return list(packed)

    def _layout(
        self,
        model: PreTrainedModel,
        size: Tensor,
        crops: int,
        edges: tuple[int, int],
        packed: Tensor,
    ) -> Layout:
        """Return what the placeholders of an image stand for, from packed coordinates (n, 3)."""
        rows, columns = edges
        scale, row, column = packed.round().long().unbind(1)  # (n,) each
        tiles = scale > 0

        # the crop of each token, in the tower's order
        crop = scale.clone()  # 0 the thumbnail, -1 a newline
        if crops > 1:
            _, across = self._tiles(model, size)
            crop += tiles * (row // rows * across + column // columns)

        # its patch in that crop
        patches = (crop * rows + row % rows) * columns + column % columns  # (n,)
        patches = torch.where(scale < 0, -1, patches)

        # rows and columns that unpadding or shrinking has left, counted without gaps
        coordinates = torch.stack([crop, row, column], dim=1)  # (n, 3)
        if tiles.any():
            coordinates[tiles, 1] = _ranks(packed[tiles, 1])
            coordinates[tiles, 2] = _ranks(packed[tiles, 2])
        return Layout(patches[:, None], coordinates, crops * rows * columns)

    def _tiles(self, model: PreTrainedModel, size: Tensor) -> tuple[int, int]:
        """Return the rows and columns of tiles of an image."""
        edge = model.config.vision_config.image_size
        rows, columns = get_anyres_image_grid_shape(size, model.config.image_grid_pinpoints, edge)
        return rows, columns


def _pooled(rows: int, columns: int, stride: int | None) -> Crop:
    """Return the crop that pooling the rows · columns patches of a frame makes.

    Args:
        stride: side of the squares of patches that become a token. None: each side is halved by
            bilinear resizing, as OneVision does it.
    """
    across, down = _cells(columns, stride), _cells(rows, stride)
    index = down[:, None, :, None] * columns + across[None, :, None]  # (height, width, m, m)
    height, width = len(down), len(across)
    return Crop(index.reshape(height * width, -1), height, width, rows * columns)


def _cells(length: int, stride: int | None) -> Tensor:
    """Return which of `length` patches each token along a side is made of: (tokens, m)."""
    if stride is not None:
        return torch.arange(length // stride * stride).view(-1, stride)
    # half as many, rounded up, each between the two patches around its centre
    count = (length + 1) // 2
    first = ((torch.arange(count) + 0.5) * length / count - 0.5).floor().long()  # (tokens,)
    return torch.stack([first, (first + 1).clamp(max=length - 1)], dim=1)


def _ranks(x: Tensor) -> Tensor:
    """Return consecutive integers (n,) in the order of the values, from the least one, rounded.

    What interpolation has spread by a rounding error is one value: rows are one apart or more.
    """
    values, index = x.unique(return_inverse=True)  # (v,), (n,)
    rank = F.pad((values.diff() > 0.5).cumsum(0), (1, 0))  # (v,)
    return rank[index] + int(values[0].round())
