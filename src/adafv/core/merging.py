"""Where tokens may be merged: averages of them stand in for an image's own features."""

from collections.abc import Mapping
from typing import Any

import torch
from transformers import PreTrainedModel

from adafv.core.visual_tokens import Encoding
from adafv.utils.checks import checked

__all__ = ["check_merging"]


@checked
def check_merging(
    method: str, model: PreTrainedModel, inputs: Mapping[str, Any], encoding: Encoding
) -> None:
    """Raise a `ValueError` where averages of tokens cannot stand in for an image's own features.

    Args:
        method: that merges, by its name.
    """
    if not encoding.merges:
        raise ValueError(
            f"{method} merges tokens, but models of the family {model.config.model_type!r} take "
            "them before their projector: choose a method that keeps tokens as they are"
        )
    # whether a loss may reach what has made the features
    asked = model.training or inputs.get("labels") is not None
    differentiable = any(full.requires_grad for full in encoding.features)
    if asked and differentiable and torch.is_grad_enabled():
        raise ValueError(
            f"{method} merges tokens without gradients, so that neither projector nor vision tower "
            "would learn from them: freeze both, or choose a method that keeps tokens as they are"
        )
