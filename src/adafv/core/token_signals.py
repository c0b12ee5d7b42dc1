"""Signals of tokens: what the tower's patches showed, or what stands in its place."""

import torch
from torch import Tensor

from adafv.core.encoder import Part
from adafv.core.signals import Signal
from adafv.families.crop_layout import Layout
from adafv.ops.saliency import mean_cosine_distance
from adafv.utils.checks import checked

__all__ = ["observed_signals", "unobserved_signal"]

TINY = 1e-30
"""What the distances of tokens that are all the same are divided by, instead of by their sum."""


@checked
def observed_signals(
    parts: list[Part], layouts: list[Layout], patches: list[Tensor], device: torch.device
) -> dict[Signal, list[Tensor]]:
    """Return what the tower's patches showed, for each token (N[, d]) of each image on a device.

    A token is given the mean over the patches that it is made of.
    """
    sizes = [layout.size for layout in layouts]
    signals: dict[Signal, list[Tensor]] = {}
    for signal in parts[0].found:
        seen = torch.cat([part.found[signal] for part in parts])  # (patches of all images[, d])
        if len(seen) != sum(sizes):
            raise ValueError(
                f"the vision tower has shown {len(seen)} patches of images that should have "
                f"{sum(sizes)}: this way of preparing images is not known, please report it, or "
                "choose a method that looks at no attention"
            )
        tokens: list[Tensor] = []
        for of_image, layout, indices in zip(seen.split(sizes), layouts, patches, strict=True):
            pooled = layout.pooled(of_image, indices)  # (N[, d])
            tokens.append(pooled.to(device, non_blocking=True))
        signals[signal] = tokens
    return signals


@checked
def unobserved_signal(signal: Signal, visual: list[Tensor]) -> list[Tensor]:
    """Return a signal (N[, d]) of each image whose tower cannot be observed, made of its tokens.

    Instead of hidden states and keys the visual tokens themselves, instead of attention how much
    each differs from the others, as a share of the image: attention is a softmax, and methods
    weigh features with it.
    """
    if signal.kind in ("keys", "hidden"):
        return [x.float() for x in visual]
    shares: list[Tensor] = []
    for x in visual:
        distance = mean_cosine_distance(x)  # (N,)
        # summed in fp64, so that the order of the shares does not hang on how a device sums
        total = distance.double().sum().clamp(min=TINY)
        shares.append(distance / total)
    return shares
