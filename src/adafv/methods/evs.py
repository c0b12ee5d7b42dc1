"""EVS: the first frame whole, then what changes."""

from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from adafv.methods._video import VideoPruner
from adafv.ops.budget import BudgetError, share_of

__all__ = ["EVS"]


@dataclass(kw_only=True)
class EVS(VideoPruner):
    """Keeps the first frame of a video, and what differs from the frame before.

    Natan Bagrov et al., "Efficient Video Sampling: Pruning Temporally Redundant Tokens for Faster
    VLM Inference", arXiv 2510.14624. All tokens of the first frame, then those of all other frames
    with the lowest cosine to the token at the same place in the frame before. The distance is that
    of NVIDIA's code in vLLM, of visual tokens; the paper, which was not at hand whole, is said to
    have one of pixels (L1).
    Departure: a budget of less than a frame is refused, where that code keeps the first frame
    nevertheless: exactly K tokens are kept here.

    Args:
        first: share of the budget that is the most the first frame gets, an even choice of its
            places, so that a budget may be less than a frame (ours). 0: the first frame whole
            (paper).
    """

    first: float = 0.0

    name = "evs"
    paper = "arXiv 2510.14624"
    shares = ("first",)

    def turns(self, frames: Tensor, there: Tensor, budget: int) -> Tensor:
        """Rank by the cosine to the frame before; the first frame goes before all others."""
        count, places = there.shape
        # pair by pair: all at once would be more copies of the video
        cosines = [F.cosine_similarity(frame, last, dim=-1) for last, frame in pairwise(frames)]
        turns = F.pad(torch.stack(cosines), (0, 0, 1, 0), value=-2.0)  # (F, P)
        if not self.first:
            if budget < places:
                raise BudgetError(
                    f"evs keeps the first frame whole, {places} tokens of {count} frames, and the "
                    f"budget is {budget}: pass tokens={places} or more, or first=0.5"
                )
            return turns

        # an even choice of the first frame: the others of it come last
        sure = min(places, share_of(budget, self.first))
        stride = [int((j + 0.5) * places / sure) for j in range(sure)]
        turns[0] = 2.0
        turns[0, stride] = -2.0
        return turns
