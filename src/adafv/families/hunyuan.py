"""HunYuan-VL: a newline after each row of tokens, one token before the image and one behind it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from transformers import PreTrainedModel

from adafv.families.base import Crop, Layout
from adafv.families.crops import Grid
from adafv.layout import Prompt

__all__ = ["HunYuan"]


@dataclass(frozen=True, kw_only=True)
class HunYuan(Grid):
    """Its tower reads all patches in raster order."""

    vision: str = "vision_tower"
    together: bool = False

    def layouts(
        self, model: PreTrainedModel, inputs: Mapping[str, Any], prompt: Prompt, tokens: Sequence[int]
    ) -> list[Layout]:
        counts = inputs["image_grid_thw"].prod(1) // model.config.vision_config.spatial_merge_size**2
        return [_lined(crop) for crop in self.crops(model, inputs, counts.tolist())]


def _lined(crop: Crop) -> Layout:
    rows = F.pad(crop.patches.unflatten(0, (crop.height, crop.width)), (0, 0, 0, 1), value=-1)
    where = torch.cartesian_prod(torch.zeros(1).long(), torch.arange(crop.height), torch.arange(crop.width + 1))
    around = (0, 0, 1, 1)
    return Layout(F.pad(rows.flatten(0, 1), around, value=-1), F.pad(where, around), crop.size)
