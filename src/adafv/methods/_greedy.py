"""Pruning one token at a time: each time the one that gains most."""

from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from adafv.core.nested import NestedPruner
from adafv.core.visual_tokens import VisualTokens
from adafv.ops.coverage import Gains
from adafv.utils.checks import checked

__all__ = ["GreedyPruner"]


@checked
@dataclass(kw_only=True)
class GreedyPruner(NestedPruner):
    """A method that picks K tokens one after the other, each time the one that gains most.

    Ties go to the lower index.
    """

    @abstractmethod
    def gains(self, tokens: VisualTokens, count: int) -> Gains:
        """Yield the gain of every token, pick after pick.

        What it says of padding and of picked tokens doesn't matter. Of a token that doesn't gain
        most an upper bound will do, below the largest gain.

        Args:
            count: how many picks there will be at most.
        """

    @torch.no_grad()
    def rank(self, tokens: VisualTokens, count: int) -> Tensor:
        """Pick `count` tokens of each image."""
        gains = self.gains(tokens, count)
        gain = next(gains)  # (I, N)
        free = tokens.mask  # (I, N)
        picks: list[Tensor] = []
        while True:
            pick = gain.masked_fill(~free, -torch.inf).argmax(dim=1, keepdim=True)  # (I, 1)
            picks.append(pick)
            if len(picks) == count:
                return torch.cat(picks, dim=1)  # (I, count)
            free = free.scatter(1, pick, False)
            gain = gains.send(pick)
