"""Gemma 4: images of any shape, each padded to the longest, their patches' places given."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedModel

from adafv.families.base import Crop, Family, raster

__all__ = ["Gemma4"]


@dataclass(frozen=True, kw_only=True)
class Gemma4(Family):
    """A token is the mean of a square of patches."""

    required_inputs: tuple[str, ...] = ("image_position_ids",)

    def crops(
        self, model: PreTrainedModel, inputs: Mapping[str, Any], tokens: Sequence[int]
    ) -> list[Crop]:
        merge, places = (
            model.config.vision_config.pooling_kernel_size,
            inputs["image_position_ids"].cpu(),
        )
        sizes = ((places.amax(1) + 1) // merge).tolist()
        return [raster(height, width, merge, places.shape[1]) for width, height in sizes]
