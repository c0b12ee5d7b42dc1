"""Observe the attention of a vision tower that is a module of transformers within vLLM's model."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor
from transformers import PreTrainedModel

from adafv.core.capture import capture
from adafv.core.signals import SALIENCY

__all__ = ["watch_transformers"]


@contextmanager
def watch_transformers(
    tower: PreTrainedModel, layer: int, cls: int | None, registers: int
) -> Iterator[list[Tensor]]:
    """Collect what each patch is worth to the tower, as long as the context is open.

    vLLM puts linear layers of its own into such a tower, whole ones on every rank.

    Args:
        tower: where to look.
        layer: which of its `hidden_states` the features are taken from.
        cls: which of its tokens is CLS: 0, -1, or None, for the attention received.
        registers: how many other tokens stand between CLS and the patches.

    Yields:
        A list, empty until the context is closed. Then it has one (patches,) fp32 tensor, of all
        images in the order in which the tower saw them, their padding included.

    Raises:
        ValueError: a tower whose attention cannot be observed.
    """
    found: list[Tensor] = []
    with capture(tower, layer, cls, (SALIENCY,), registers) as seen:
        yield found
    found.append(seen[SALIENCY])
