"""Llama 4: the projector lies behind the door."""

from dataclasses import dataclass

from torch import Tensor
from transformers import PreTrainedModel

from adafv.families.base import base_of
from adafv.families.crops import Crops

__all__ = ["Llama4"]


@dataclass(frozen=True, kw_only=True)
class Llama4(Crops):
    """The model takes the tower's features and projects them itself. CLS is the tower's last token."""

    output_field: str = "last_hidden_state"
    merges: bool = False
    vision: str = "vision_model"
    cls: int | None = -1
    max_crop_gap: int | None = 2
    thumbnail: int | None = -1

    def project(self, model: PreTrainedModel, features: Tensor) -> Tensor:
        base = base_of(model)
        return base.multi_modal_projector(features)
