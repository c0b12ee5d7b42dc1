"""LLaVA-1.5 (one crop) and LLaVA-NeXT (a thumbnail and a grid of tiles), with any text backbone."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.models.llava_next.modeling_llava_next import get_anyres_image_grid_shape, image_size_to_num_patches

from adafv.families.base import Family

__all__ = ["Llava", "LlavaNext"]


def _side(model: PreTrainedModel) -> int:
    vision = model.config.vision_config
    return vision.image_size // vision.patch_size


def _cells(rows: int, columns: int) -> Tensor:
    return torch.cartesian_prod(torch.arange(rows), torch.arange(columns))


class Llava(Family):
    """Haotian Liu et al., arXiv 2310.03744: every image is one crop, its patches in raster order."""

    def packing(self, model: PreTrainedModel, inputs: Mapping[str, Any]) -> list[Tensor]:
        patches = torch.arange(_side(model) ** 2)
        if model.config.vision_feature_select_strategy == "full" and self.has_cls(model):
            patches = torch.cat([torch.tensor([-1]), patches])
        return [patches] * len(inputs["pixel_values"])

    def grid(self, model: PreTrainedModel, inputs: Mapping[str, Any]) -> list[Tensor]:
        cells = _cells(_side(model), _side(model))
        cells = torch.cat([torch.zeros(len(cells), 1, dtype=cells.dtype), cells], dim=1)
        return [cells] * len(inputs["pixel_values"])


class LlavaNext(Family):
    """LLaVA-NeXT: thumbnail first, then the tiles of the best-fitting grid, unpadded, a newline after each row."""

    def packing(self, model: PreTrainedModel, inputs: Mapping[str, Any]) -> list[Tensor]:
        sizes, patches = inputs["image_sizes"].cpu(), _side(model) ** 2
        crops = [self._crops(model, size) for size in sizes]
        index = [torch.arange(n * patches, dtype=torch.float64).view(n, patches, 1) for n in crops]
        base: Any = model.base_model
        packed, _ = base.pack_image_features(
            index, sizes, model.config.vision_feature_select_strategy, torch.full((1,), -1, dtype=torch.float64)
        )
        return [p.flatten().long() for p in packed]

    def grid(self, model: PreTrainedModel, inputs: Mapping[str, Any]) -> list[Tensor]:
        return [self._grid(model, size) for size in inputs["image_sizes"].cpu()]

    def _grid(self, model: PreTrainedModel, size: Tensor) -> Tensor:
        side = _side(model)
        cells = _cells(side, side)
        if (crops := self._crops(model, size)) == 1:
            origins = torch.zeros(1, 2, dtype=torch.long)
        else:
            image_size, pinpoints = model.config.vision_config.image_size, model.config.image_grid_pinpoints
            tiles = get_anyres_image_grid_shape(size, pinpoints, image_size)
            origins = torch.cat([torch.zeros(1, 2, dtype=torch.long), _cells(*tiles) * side])
        where = (origins[:, None] + cells).flatten(0, 1)
        return torch.cat([torch.arange(crops).repeat_interleave(len(cells))[:, None], where], dim=1)

    def _crops(self, model: PreTrainedModel, size: Tensor) -> int:
        pinpoints, image_size = model.config.image_grid_pinpoints, model.config.vision_config.image_size
        return image_size_to_num_patches(size, pinpoints, image_size)
