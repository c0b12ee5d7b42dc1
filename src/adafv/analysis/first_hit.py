"""How many visual tokens a method must keep before one that the question is about is among them."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray

from adafv.core.pruner import BudgetError, Pruner, ScoringPruner
from adafv.core.visual_tokens import VisualTokens
from adafv.utils.checks import checked

__all__ = ["Fewest", "fewest"]


@dataclass(frozen=True)
class Fewest:
    """The smallest budget that keeps a related token.

    Attributes:
        tokens: that budget.
        scanned: a larger budget was seen to lose the token again, so every budget was tried.
    """

    tokens: int
    scanned: bool = False


@checked
def fewest(
    pruner: Pruner, tokens: VisualTokens, related: Sequence[NDArray[np.bool_]]
) -> list[Fewest]:
    """The fewest tokens to keep so that at least one related token is among them (arXiv 2501.09532,
    Fig. 4).

    For a method that ranks, that is the rank of the first related token. For any other, which may
    choose quite other tokens under another budget, budgets are doubled and then bisected, which
    takes a token once kept to be kept under every larger budget. That is then put to the test at
    budgets below the one found, all of them up to 16 and in steps of a quarter beyond; where one of
    them keeps a related token, every budget is tried from 1 upwards. A lucky budget between two
    that are tested goes unseen.

    Args:
        pruner: a method; its own budget doesn't matter.
        tokens: I images.
        related: for each image (N,) which of its tokens are related, at least one.
    """
    ranks = type(pruner).pick is ScoringPruner.pick and pruner.crops == "global"
    if ranks and isinstance(pruner, ScoringPruner):
        scores = pruner.score(tokens).masked_fill(~tokens.mask, -torch.inf)
        order = scores.sort(dim=1, descending=True, stable=True).indices.cpu().numpy()
        return [
            Fewest(int(r[o[: len(r)]].argmax()) + 1) for r, o in zip(related, order, strict=True)
        ]
    return [_search(_hit(pruner, _only(tokens, i), r), len(r)) for i, r in enumerate(related)]


def _hit(pruner: Pruner, image: VisualTokens, related: NDArray[np.bool_]) -> Callable[[int], bool]:
    @cache
    def hit(budget: int) -> bool:
        try:
            kept = pruner.select(image, [budget]).kept[0]
        except BudgetError:
            return False  # it keeps nothing
        return bool(related[kept.cpu().numpy()].any())

    return hit


def _search(hit: Callable[[int], bool], count: int) -> Fewest:
    low, high = 0, 1
    while high < count and not hit(high):  # at `count` everything is kept
        low, high = high, min(2 * high, count)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if hit(middle) else (middle, high)
    lucky = next((k for k in _ladder(high) if hit(k)), None)
    if lucky is None:
        return Fewest(high)
    return Fewest(next(k for k in range(1, lucky + 1) if hit(k)), scanned=True)


def _ladder(end: int) -> Iterator[int]:
    """Budgets below `end`: 1 … 16, then each a quarter larger."""
    step = 1
    while step < end:
        yield step
        step += max(1, step // 4 if step >= 16 else 1)


def _only(tokens: VisualTokens, image: int) -> VisualTokens:
    """One image of a batch, without its padding."""
    one, count = slice(image, image + 1), tokens.counts[image]
    return replace(
        tokens,
        features=tokens.features[one, :count],
        mask=tokens.mask[one, :count],
        counts=(count,),
        signals={signal: value[one, :count] for signal, value in tokens.signals.items()},
        text=None if tokens.text is None else tokens.text[one],
        text_mask=None if tokens.text_mask is None else tokens.text_mask[one],
        coordinates=tokens.coordinates[one],
        seeds=tokens.seeds[one],
    )
