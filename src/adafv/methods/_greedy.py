"""Pruning one token at a time: each time the one that gains most."""

from abc import abstractmethod
from dataclasses import dataclass

import torch

from adafv.core.pruner import Pruner, Selection, first
from adafv.core.visual_tokens import VisualTokens
from adafv.ops.coverage import Gains
from adafv.utils.checks import checked

__all__ = ["GreedyPruner"]


@checked
@dataclass(kw_only=True)
class GreedyPruner(Pruner):
    """A method that picks K tokens one after the other, each time the one that gains most; ties:
    the lower index.
    """

    @abstractmethod
    def gains(self, tokens: VisualTokens, count: int) -> Gains:
        """The gain of every token, pick after pick; what it says of padding and of picked tokens
        doesn't matter.

        Args:
            count: how many picks there will be at most.
        """

    def pick(self, tokens: VisualTokens, budget: list[int]) -> Selection:
        gains = self.gains(tokens, max(budget))
        gain, free, picks = next(gains), tokens.mask, []
        for left in reversed(range(max(budget))):
            pick = gain.masked_fill(~free, -torch.inf).argmax(dim=1, keepdim=True)  # (I, 1)
            free = free.scatter(1, pick, False)
            picks.append(pick)
            if left:
                gain = gains.send(pick)
        return Selection(first(torch.cat(picks, dim=1), budget))
