"""What a method that prunes between the layers of the language model leaves after each stage."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from adafv.core.pruner import Pruner
from adafv.core.visual_tokens import Encoding
from adafv.utils.checks import checked

__all__ = ["Stage", "stages"]


@dataclass(frozen=True)
class Stage:
    """The visual tokens that are left after a stage.

    Attributes:
        layers: how many layers have read more than these.
        kept: (K,) indices, ascending.
    """

    layers: int
    kept: NDArray[Any]  # (K,)


@checked
@torch.no_grad()
def stages(
    model: PreTrainedModel, inputs: Mapping[str, Any], encoding: Encoding, pruner: Pruner
) -> list[Stage]:
    """Let the model read a prompt once, and return what each stage leaves of its first image.

    Args:
        inputs: the prompt, see `adafv.models.prompting.build_inputs`.
        encoding: of its image.

    Returns:
        The stages in their order; none for a method that chooses before the language model, or
        that keeps everything.
    """
    short = pruner.prune(model, inputs, encoding)
    with pruner.between_layers(model, encoding) as decoder:
        if decoder is None:
            return []
        model(**short)
    kept = decoder.kept
    # the first view is what is read before any stage
    return [
        Stage(layers, view.kept[0].cpu().numpy())
        for layers, view in zip(kept.stages, kept.views[1:], strict=True)
    ]
