"""Pruning one token at a time: each time the one that gains most."""

from abc import abstractmethod
from collections.abc import Generator
from dataclasses import dataclass

import torch
from torch import Tensor

from adafv.checks import checked
from adafv.encoding import VisualTokens
from adafv.pruner import Pruner, Selection, first

__all__ = ["Gains", "GreedyPruner", "coverage"]

Gains = Generator[Tensor, Tensor, None]
"""Yields the gain (I, N) of every token, given those picked so far, and is sent the next picks (I, 1)."""


@checked
@dataclass(kw_only=True)
class GreedyPruner(Pruner):
    """A method that picks K tokens one after the other, each time the one that gains most; ties: the lower index."""

    @abstractmethod
    def gains(self, tokens: VisualTokens, count: int) -> Gains:
        """The gain of every token, pick after pick; what it says of padding and of picked tokens doesn't matter.

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


@checked
def coverage(rows: Tensor) -> Gains:
    """Gains of sum_i max_{j in S} rows[i, j], the coverage of every row by the tokens S picked so far.

    Args:
        rows: (I, R, N), non-negative; 0 where a row or a token is padding.
    """
    uncovered = rows.clone()
    while True:
        pick = yield uncovered.sum(1)
        uncovered.sub_(uncovered.take_along_dim(pick[:, None], dim=2)).relu_()
