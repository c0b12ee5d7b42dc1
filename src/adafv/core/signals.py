"""Signals: what a method may ask the vision tower for."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from adafv.utils.checks import checked

__all__ = ["HIDDEN", "KEYS", "SALIENCY", "Signal"]


@checked
@dataclass(frozen=True)
class Signal:
    """Something of the vision tower that a method looks at, for every patch of every crop.

    Attributes:
        kind: "attention": (N,) attention of CLS to each patch, mean over heads; without CLS the
            attention received. "received": (N,) attention each patch receives, mean over heads and
            queries. "keys": (N, d) its key, mean over heads. "hidden": (N, width) the layer's
            output.
        depth: of the layer, 0 (the first) to 1 (the last); None: the layer the features are taken
            from. Where it attends within windows, the next layer that sees the full image, or
            the last such one.
        heads: how the heads of "received" are put together: "mean", or "max", the strongest for
            each query.
    """

    kind: Literal["attention", "received", "keys", "hidden"]
    depth: float | None = None
    heads: Literal["mean", "max"] = "mean"

    def layer(self, count: int, of_features: int, full: Sequence[int] | None = None) -> int:
        """Return the index of the layer in a tower of `count`.

        Args:
            of_features: index of the features' layer.
            full: the layers that see the full image. None: all of them.
        """
        if self.depth is None:
            return of_features
        nearest = round(self.depth * (count - 1))
        if not full:
            return nearest
        # a layer with windows sees no patch against all the others
        later = [index for index in full if index >= nearest]
        return min(later) if later else max(full)


SALIENCY = Signal("attention")
"""The attention of CLS: what most methods call saliency."""

KEYS = Signal("keys")
"""What the patches are found by: close to their meaning, and shorter than their features."""

HIDDEN = Signal("hidden")
"""What the tower makes of the patches, before the projector."""
