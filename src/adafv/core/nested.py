"""Methods whose choice at any budget begins with that at a smaller one."""

from abc import abstractmethod

import torch
from torch import Tensor

from adafv.core.pruner import Pruner
from adafv.core.selection import Selection, first
from adafv.core.visual_tokens import Encoding, VisualTokens

__all__ = ["NestedPruner", "ScoringPruner"]


class NestedPruner(Pruner):
    """A method whose kept tokens at any budget are the first ones of an order that is the same.

    Crops that share a budget (`crops="each"`) end that: a larger one may give a crop fewer.
    """

    @abstractmethod
    def rank(self, tokens: VisualTokens, count: int) -> Tensor:
        """Return the first `count` tokens (I, count) of each image's order, padding last.

        They must not depend on `count`, but for its being the end.
        """

    def pick(self, tokens: VisualTokens, budget: list[int]) -> Selection:
        """Keep the first K tokens of each image's order."""
        return Selection(first(self.rank(tokens, max(budget)), budget))

    @property
    def nested(self) -> bool:
        """Tell if every budget keeps the first tokens of one `order`: unless crops share it."""
        # a subclass that picks otherwise has no order
        return self.crops == "global" and type(self).pick is NestedPruner.pick

    @torch.no_grad()
    def order(self, encoding: Encoding, count: int | None = None) -> list[Tensor]:
        """Return each image's tokens in the order in which budgets take them up."""
        self._check_encoding(encoding)
        if not self.nested:
            return super().order(encoding, count)
        counts = encoding.tokens.counts
        most = max(counts) if count is None else min(count, max(counts))
        ranked = self.rank(encoding.tokens, most)  # (I, most)
        return [row[:own] for row, own in zip(ranked, counts, strict=True)]


class ScoringPruner(NestedPruner):
    """A method that ranks the tokens: the K highest scores are kept, on ties the lower index."""

    @abstractmethod
    def score(self, tokens: VisualTokens) -> Tensor:
        """Return the importance (I, N) of every token; what it says of padding doesn't matter."""

    def rank(self, tokens: VisualTokens, count: int) -> Tensor:
        """Order the tokens by their scores, the highest first."""
        scores = self.score(tokens)  # (I, N)
        # padding comes last
        scores = scores.masked_fill(~tokens.mask, -torch.inf)
        # a stable sort leaves equal scores in the order of their indices
        order = scores.sort(dim=1, descending=True, stable=True).indices  # (I, N)
        return order[:, :count]
