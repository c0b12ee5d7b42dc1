"""V-CAST: frames where the video takes a turn keep more."""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from adafv.methods._video import VideoPruner
from adafv.ops.frames import ranks, turns_by_remainder

__all__ = ["VCAST"]

TEMPERATURE = 0.7  # of the softmax over frames
EPSILON = 1e-6  # in the range of lengths


@dataclass(kw_only=True)
class VCAST(VideoPruner):
    """Keeps tokens that are long and unlike their frame, more where the path of frames bends.

    Xinying Lin et al., "V-CAST: Video Curvature-Aware Spatio-Temporal Pruning for Efficient Video
    Large Language Models", arXiv 2603.27650. With r_t the mean token of frame t, scaled to length
    1, its curvature is 1 - cos(r_t - r_{t-1}, r_{t+1} - r_t), 1 at both ends. Frames get one token
    each, and of the rest shares by softmax(curvature / 0.7). In a frame the tokens with the largest
    1 - cos(v, r_t) + |v| are kept, the length |v| scaled to 0 … 1.
    Departure: tokens that rounding leaves go to the largest remainders, one each. The released code
    gives them all to the frame with the largest one, whose remainder it never lowers.
    Departure: positions are those of every method here: models with M-RoPE keep t, h and w, as the
    paper wants; others number what is kept anew, unless `positions="original"`.
    """

    name = "vcast"
    paper = "arXiv 2603.27650"

    def turns(self, frames: Tensor, there: Tensor, budget: int) -> Tensor:
        """Rank the tokens of each frame, and deal by the frames' curvature."""
        mean = F.normalize(frames.mean(1), dim=-1)  # (F, D)

        # how sharply the path of the frames turns
        steps = mean.diff(dim=0)  # (F - 1, D)
        curvature = 1 - F.cosine_similarity(steps[:-1], steps[1:], dim=-1, eps=EPSILON)  # (F - 2,)
        curvature = F.pad(curvature, (1, 1), value=1.0)  # (F,)
        weights = (curvature / TEMPERATURE).softmax(0)

        # what is unlike its frame, and long
        unlike = 1 - F.cosine_similarity(frames, mean[:, None], dim=-1)  # (F, P)
        length = frames.norm(dim=-1)  # (F, P)
        low = length.amin(1, keepdim=True)
        high = length.amax(1, keepdim=True)
        score = unlike + (length - low) / (high - low + EPSILON)  # (F, P)
        return turns_by_remainder(ranks(score, there), weights, budget)
