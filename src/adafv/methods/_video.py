"""Pruning the tokens of a video, frame beside frame."""

from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from adafv.core.pruner import Pruner
from adafv.core.selection import Selection
from adafv.core.visual_tokens import VisualTokens
from adafv.ops.budget import BudgetError
from adafv.ops.frames import frame_grid, latest
from adafv.utils.checks import checked

__all__ = ["VideoPruner"]


@checked
@dataclass(kw_only=True)
class VideoPruner(Pruner):
    """A method that compares the frames of a video; an image, which has none, is refused.

    A token that repeats the frame before is no candidate, as for every method here, but frames are
    compared as they were: the token that it repeats stands in its place.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.crops != "global":
            raise ValueError(
                f"crops={self.crops!r} makes every frame an image of its own, and {self.name} "
                "compares them: pass crops='global'"
            )

    @abstractmethod
    def turns(self, frames: Tensor, there: Tensor, budget: int) -> Tensor:
        """Return when each token of a video has its turn: the earliest are kept.

        Ties go to the earlier frame, then to the lower index.

        Args:
            frames: (F, P, D) fp64, all places of all frames.
            there: (F, P), true where a frame has a token of its own.
            budget: K.
        """

    def pick(self, tokens: VisualTokens, budget: list[int]) -> Selection:
        """Keep the K tokens of each video that have the earliest turns.

        Raises:
            BudgetError: an image, of which less than everything is to be kept.
        """
        device = tokens.device
        kept = []
        for i, (count, k) in enumerate(zip(tokens.counts, budget, strict=True)):
            if k == count:
                kept.append(torch.arange(count, device=device))
                continue
            if tokens.frames[i] == 1:
                raise BudgetError(
                    f"{self.name} compares the frames of a video, and an image has none: choose a "
                    "method for images, such as adafv"
                )
            grid = frame_grid(tokens.coordinates[i], tokens.frames[i])  # (F, P)
            shown = latest(grid).to(device, non_blocking=True)  # (F, P)
            token = grid.to(device, non_blocking=True)  # (F, P)
            there = token >= 0

            turns = self.turns(tokens.features[i][shown].double(), there, k)  # (F, P)
            order = turns.masked_fill(~there, torch.inf).flatten().argsort(stable=True)
            kept.append(token.flatten()[order[:k]].sort().values)
        return Selection(kept)
