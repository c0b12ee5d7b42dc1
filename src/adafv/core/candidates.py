"""The tokens that a method chooses from: of a video, those that do not repeat."""

import torch
import torch.nn.functional as F
from torch import Tensor

from adafv.families.crop_layout import Layout
from adafv.utils.checks import checked

__all__ = ["candidates"]

SAME = 0.9999
"""Cosine of a token with the last one kept at its place, from which on it shows nothing new."""


@checked
def candidates(layout: Layout, features: Tensor) -> Tensor:
    """Return which of an image's n tokens a method chooses from: (N,), its patches.

    A token of a video that is the same as the last candidate before it, at the same place of its
    frame, says nothing: it is not counted, and dropped as soon as any token is. So a video of a
    scene that stands still costs what an image costs, and one that changes slowly is seen to.
    """
    patches = layout.patch_indices
    if layout.frames == 1:
        return patches
    visual = features.detach()[patches.to(features.device, non_blocking=True)]  # (frames · P, D')
    frames = visual.unflatten(0, (layout.frames, -1))  # (frames, P, D')
    last = F.normalize(frames[0].float(), dim=-1)  # (P, D') the last candidate at each place
    new = [torch.ones_like(last[:, 0], dtype=torch.bool)]  # frames times (P,)
    for frame in frames[1:]:
        unit = F.normalize(frame.float(), dim=-1)  # (P, D')
        changed = (unit * last).sum(-1) < SAME  # (P,)
        last = torch.where(changed[:, None], unit, last)
        new.append(changed)
    return patches[torch.cat(new).cpu()]
