"""VidCom2: frames unlike the rest of the video keep more, and tokens unlike the rest."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from adafv.methods._video import VideoPruner
from adafv.ops.frames import ranks, turns_by_quotient
from adafv.ops.precision import rounded

__all__ = ["VidCom2"]

BANDWIDTHS = (1 / 8, 1 / 4, 1 / 2, 1.0, 2.0)  # of the Gaussian kernels that are added up
TEMPERATURE = 0.01  # of the softmax over frames
BITS = 40  # behind the point of a share and a similarity: equal ones tie


@dataclass(kw_only=True)
class VidCom2(VideoPruner):
    """Keeps the tokens least like the video and least like their frame, more of a unique frame.

    Xuyang Liu et al., "Video Compression Commander: Plug-and-Play Inference Acceleration for Video
    Large Language Models", EMNLP 2025, arXiv 2505.14454, as its released code has it. Of the
    features the half of the channels with the lowest variance, scaled to length 1; g_v and g_f, the
    Gaussian similarity (a sum of five bandwidths) of each token to the mean of the video and of its
    frame. A frame's share is 1 + p - mean p, p = softmax over frames of -mean g_v / 0.01. In a
    frame the tokens with the lowest g_v + g_f are kept, at least one.
    Departure: the released code rounds the budget of each frame on its own, so that they don't add
    up to K. Here they are the same shares, rounded so that they do
    (`adafv.ops.frames.turns_by_quotient`); where the released ones add up the two are equal.
    Departure: with fewer tokens than frames, the frames with the largest shares keep one.
    """

    name = "vidcom2"
    paper = "EMNLP 2025, arXiv 2505.14454"

    def turns(self, frames: Tensor, there: Tensor, budget: int) -> Tensor:
        """Rank the tokens of each frame, and deal by the frames' shares."""
        # the channels that vary least
        variance = frames.flatten(0, 1).var(0, correction=0)  # (D,)
        few = variance.argsort(stable=True)[: frames.shape[-1] // 2]
        unit = F.normalize(frames[..., few], dim=-1)  # (F, P, D / 2)

        # similarity to the mean of the video and to that of the frame
        to_video = _similarity(unit, unit.mean((0, 1)))  # (F, P)
        to_frame = _similarity(unit, unit.mean(1, keepdim=True))  # (F, P)

        # a share for each frame
        unique = (-to_video.mean(1) / TEMPERATURE).softmax(0)  # (F,)
        # two frames are equally far from their mean, and would differ in the last bits
        weights = rounded(1 + unique - unique.mean(), BITS)
        likeness = rounded(to_video + to_frame, BITS)
        return turns_by_quotient(ranks(-likeness, there), weights)


def _similarity(x: Tensor, center: Tensor) -> Tensor:
    """Return the Gaussian similarity (F, P) of x (F, P, d) to a center."""
    distance = (x - center).square().sum(-1)  # (F, P)
    total = torch.zeros_like(distance)
    for bandwidth in BANDWIDTHS:
        total += (-distance / (2 * bandwidth)).exp()
    return total
