"""Kept tokens: what a method returns for a batch of images."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from adafv.utils.checks import checked

__all__ = ["Selection", "first"]


@checked
@dataclass(frozen=True)
class Selection:
    """The kept tokens of a batch of I images.

    Attributes:
        kept: for each image the indices (K,) of its kept tokens, ascending.
        features: for each image their features (K, D), where the method changes them; None where it
            doesn't.
        split: (I, 2) for each image how many tokens text and image chose, (k_t, k_v), where the
            method mixes two lists.
        read: for each image how many of its visual tokens a layer of the LLM reads, mean over
            layers, where the method drops them between layers; None: all that is kept.
    """

    kept: list[Tensor]
    features: list[Tensor] | None = None
    split: Tensor | None = None
    read: list[float] | None = None

    @property
    def tokens_read(self) -> list[float]:
        """Return for each image how many visual tokens the LLM reads."""
        if self.read is not None:
            return self.read
        return [float(len(kept)) for kept in self.kept]


@checked
def first(order: Tensor | Sequence[Tensor], budget: list[int]) -> list[Tensor]:
    """Return the first `budget[i]` entries (K,) of each of I rows (N,), ascending."""
    return [row[:k].sort().values for row, k in zip(order, budget, strict=True)]
