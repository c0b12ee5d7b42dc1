"""What a method keeps of a batch of images."""

from dataclasses import dataclass

from torch import Tensor

from adafv.utils.checks import checked

__all__ = ["Selection"]


@checked
@dataclass(frozen=True)
class Selection:
    """What stays of a batch of images.

    Attributes:
        kept: for each image the indices (K,) of the tokens that stay, ascending.
        features: for each image their features (K, D), where the method changes them; None where it
            doesn't.
        split: for each image (k_t, k_v), where the method mixes two lists: a (I, 2) tensor.
        read: for each image how many of its visual tokens a layer of the LLM reads, mean over
            layers, where the method drops them between layers; None: all that is kept.
    """

    kept: list[Tensor]
    features: list[Tensor] | None = None
    split: Tensor | None = None
    read: list[float] | None = None

    @property
    def tokens_read(self) -> list[float]:
        """For each image the visual tokens that the LLM reads."""
        return [float(len(kept)) for kept in self.kept] if self.read is None else self.read
