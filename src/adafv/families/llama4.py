"""Llama 4: the model takes the tower's features and projects them itself."""

from dataclasses import dataclass

from torch import Tensor
from transformers import PreTrainedModel

from adafv.families.base import base_of
from adafv.families.crops import Crops

__all__ = ["Llama4"]


@dataclass(frozen=True, kw_only=True)
class Llama4(Crops):
    """Crops whose features go in before the projector. CLS is the tower's last token."""

    output_field: str = "last_hidden_state"
    # methods see projected tokens, which the model does not take
    merges: bool = False
    vision: str = "vision_model"
    cls: int | None = -1
    max_crop_gap: int | None = 2
    named_crop: int | None = -1
    thumbnail: int | None = -1

    def project(self, model: PreTrainedModel, features: Tensor) -> Tensor:
        """Return (n, D) what the language model will see of (n, D') features."""
        projected: Tensor = base_of(model).multi_modal_projector(features)
        return projected
