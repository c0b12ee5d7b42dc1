"""LLaVA: one crop (1.5), or a thumbnail and a grid of tiles packed into one image (NeXT,
OneVision).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.models.llava_next.modeling_llava_next import (
    get_anyres_image_grid_shape,
    image_size_to_num_patches,
)

from adafv.core.prompt import Prompt
from adafv.families.base import Family, Layout, base_of, behind, patch_grid
from adafv.families.crops import Crops, Sized

__all__ = ["AnyRes", "Llava"]


@dataclass(frozen=True, kw_only=True)
class Llava(Crops):
    """Haotian Liu et al., arXiv 2310.03744: every image is one crop.

    With Pixtral's tower: of any shape.
    """

    def layouts(
        self,
        model: PreTrainedModel,
        inputs: Mapping[str, Any],
        prompt: Prompt,
        tokens: Sequence[int],
    ) -> list[Layout]:
        if inputs.get("image_sizes") is not None:
            return Sized().layouts(model, inputs, prompt, tokens)
        return super().layouts(model, inputs, prompt, tokens)


@dataclass(frozen=True, kw_only=True)
class AnyRes(Family):
    """LLaVA-NeXT: thumbnail first, then the tiles of the best-fitting grid, unpadded, a newline
    after each row.

    OneVision shrinks a large grid of tiles to fewer tokens than patches: a token stands for the
    patch at its centre.
    """

    required_inputs: tuple[str, ...] = ("image_sizes",)

    def layouts(
        self,
        model: PreTrainedModel,
        inputs: Mapping[str, Any],
        prompt: Prompt,
        tokens: Sequence[int],
    ) -> list[Layout]:
        sizes = inputs["image_sizes"].cpu()
        crops, edges, lead = (
            self._crops(model, inputs, sizes),
            patch_grid(model, inputs),
            self.lead(model, inputs),
        )
        coordinates = [
            behind(self._coordinates(model, s, n, edges), lead)
            for s, n in zip(sizes, crops, strict=True)
        ]
        packed = self._packed(model, inputs, coordinates, sizes)
        return [
            self._layout(model, s, n, edges, p)
            for s, n, p in zip(sizes, crops, packed, strict=True)
        ]

    def _crops(self, model: PreTrainedModel, inputs: Mapping[str, Any], sizes: Tensor) -> list[int]:
        pinpoints, edge = model.config.image_grid_pinpoints, model.config.vision_config.image_size
        together = inputs.get("batch_num_images")
        alone = (
            [True] * len(sizes)
            if together is None
            else [n == 1 for n in together for _ in range(n)]
        )
        return [
            image_size_to_num_patches(s, pinpoints, edge) if a else 1
            for s, a in zip(sizes, alone, strict=True)
        ]

    def _coordinates(
        self, model: PreTrainedModel, size: Tensor, crops: int, edges: tuple[int, int]
    ) -> Tensor:
        """(crops, patches, 3) scale (0 the thumbnail, 1 the tiles), row and column of every patch.

        Args:
            edges: rows and columns of a crop.
        """
        cells = torch.cartesian_prod(*map(torch.arange, edges))
        origins = torch.zeros(1, 2, dtype=torch.long)
        if crops > 1:
            rows, columns = self._tiles(model, size)
            tiles = torch.cartesian_prod(torch.arange(rows), torch.arange(columns))
            origins = torch.cat([origins, tiles * torch.tensor(edges)])
        scale = (torch.arange(crops) > 0).long()[:, None, None].expand(-1, len(cells), 1)
        return torch.cat([scale, origins[:, None] + cells], dim=2)

    def _packed(
        self,
        model: PreTrainedModel,
        inputs: Mapping[str, Any],
        coordinates: list[Tensor],
        sizes: Tensor,
    ) -> list[Tensor]:
        """(n, 3) coordinates as the model packs features; -1 for newlines."""
        config = model.config
        pack = base_of(model).pack_image_features
        options = {"image_newline": torch.full((3,), -1.0)}
        if hasattr(config, "vision_aspect_ratio"):
            options["vision_aspect_ratio"] = config.vision_aspect_ratio
        else:
            strategy = inputs.get("vision_feature_select_strategy")
            options["vision_feature_select_strategy"] = (
                strategy or config.vision_feature_select_strategy
            )
        packed, _ = pack([c.float() for c in coordinates], sizes, **options)
        return list(packed)

    def _layout(
        self,
        model: PreTrainedModel,
        size: Tensor,
        crops: int,
        edges: tuple[int, int],
        packed: Tensor,
    ) -> Layout:
        rows, columns = edges
        scale, row, column = packed.round().long().unbind(1)
        crop = scale.clone()
        if crops > 1:
            crop += (scale > 0) * (row // rows * self._tiles(model, size)[1] + column // columns)
        patches = torch.where(
            scale < 0, -1, (crop * rows + row % rows) * columns + column % columns
        )
        coordinates = torch.stack([crop, row, column], dim=1)
        if (tiles := scale > 0).any():
            coordinates[tiles, 1:] = torch.stack(
                [_ranks(x) for x in packed[tiles, 1:].unbind(1)], dim=1
            )
        return Layout(patches[:, None], coordinates, crops * rows * columns)

    def _tiles(self, model: PreTrainedModel, size: Tensor) -> tuple[int, int]:
        edge = model.config.vision_config.image_size
        return get_anyres_image_grid_shape(size, model.config.image_grid_pinpoints, edge)


def _ranks(x: Tensor) -> Tensor:
    """Consecutive integers in the order of the values, from the smallest one's floor."""
    values, rank = x.unique(return_inverse=True)
    return rank + int(values[0])
