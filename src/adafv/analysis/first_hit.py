"""First-hit budgets: the tokens to keep until one of them is what a question is about."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from numpy.typing import NDArray

from adafv.core.nested import NestedPruner
from adafv.core.pruner import Pruner
from adafv.core.visual_tokens import VisualTokens
from adafv.methods import VIDEO_METHODS
from adafv.ops.budget import BudgetError
from adafv.utils.checks import checked

__all__ = ["FirstHit", "check_has_first_hit", "first_hits"]

Hit = Callable[[int], bool]
"""Tells if a budget keeps a related token."""

EVERY = 16
"""Up to here every smaller budget is put to the test."""


@dataclass(frozen=True)
class FirstHit:
    """The smallest budget that keeps a related token.

    Attributes:
        tokens: that budget.
        scanned: a larger budget was seen to lose the token again, so every budget was tried.
    """

    tokens: int  # K
    scanned: bool = False


@checked
def check_has_first_hit(name: str, pruner: Pruner) -> None:
    """Raise a `ValueError` if the first-hit budget of a method says nothing.

    Args:
        name: as the method was asked for.
        pruner: the method.
    """
    if type(pruner).between_layers is not Pruner.between_layers:
        raise ValueError(
            f"method {name!r} chooses inside the language model, not before it: leave it out"
        )
    # these would count as keeping nothing where they refuse an image
    if pruner.shrinks:
        raise ValueError(f"method {name!r} shrinks images and has no order: leave it out")
    if pruner.name in VIDEO_METHODS:
        raise ValueError(f"method {name!r} prunes videos, these are images: leave it out")


@checked
def first_hits(
    pruner: Pruner, tokens: VisualTokens, related: Sequence[NDArray[np.bool_]]
) -> list[FirstHit]:
    """Return the first-hit budget of each image (arXiv 2501.09532, Fig. 4).

    For a method that is nested, that is the place of the first related token in its order. For any
    other, which may choose quite other tokens under another budget, budgets are doubled and then
    bisected, which takes a token once kept to be kept under every larger budget. That is then put
    to the test at budgets below the one found, all of them up to 16 and in steps of a quarter
    beyond; where one of them keeps a related token, every budget is tried from 1 upwards. A lucky
    budget between two that are tested goes unseen.

    Args:
        pruner: a method; its own budget doesn't matter.
        tokens: I images.
        related: for each image (N,) which of its tokens are related, at least one.
    """
    found = []
    if isinstance(pruner, NestedPruner) and pruner.nested:
        # where the first related token stands
        order = pruner.rank(tokens, max(tokens.counts)).cpu().numpy()  # (I, N)
        for marks, indices in zip(related, order, strict=True):
            by_rank = marks[indices[: len(marks)]]  # (N,), padding is last
            found.append(FirstHit(int(by_rank.argmax()) + 1))
        return found

    for i, marks in enumerate(related):
        hit = _hit(pruner, _one(tokens, i), marks)
        found.append(_search(hit, len(marks)))
    return found


def _hit(pruner: Pruner, image: VisualTokens, related: NDArray[np.bool_]) -> Hit:
    """Return what tells if a budget keeps a related token; each is tried once."""

    @cache
    def hit(budget: int) -> bool:
        try:
            kept = pruner.select(image, [budget]).kept[0]  # (K,)
        except BudgetError:
            return False  # it keeps nothing
        return bool(related[kept.cpu().numpy()].any())

    return hit


def _search(hit: Hit, count: int) -> FirstHit:
    """Search the first-hit budget among 1 … `count`."""
    # double, until a budget hits; at `count` everything is kept
    low = 0
    high = 1
    while high < count and not hit(high):
        low = high
        high = min(2 * high, count)

    # bisect
    while high - low > 1:
        middle = (low + high) // 2
        if hit(middle):
            high = middle
        else:
            low = middle

    # put to the test that no smaller one hits
    lucky = next((budget for budget in _ladder(high) if hit(budget)), None)
    if lucky is None:
        return FirstHit(high)
    first = next(budget for budget in range(1, lucky + 1) if hit(budget))
    return FirstHit(first, scanned=True)


def _ladder(end: int) -> Iterator[int]:
    """Yield budgets below `end`: 1 … 16, then each a quarter larger."""
    budget = 1
    while budget < end:
        yield budget
        budget += 1 if budget < EVERY else budget // 4


def _one(tokens: VisualTokens, image: int) -> VisualTokens:
    """Return one image of a batch, without its padding."""
    # a slice keeps the dimension of the batch
    one = slice(image, image + 1)
    count = tokens.counts[image]
    signals = {signal: value[one, :count] for signal, value in tokens.signals.items()}
    return replace(
        tokens,
        features=tokens.features[one, :count],  # (1, N, D)
        mask=tokens.mask[one, :count],  # (1, N)
        counts=(count,),
        signals=signals,
        text=None if tokens.text is None else tokens.text[one],
        text_mask=None if tokens.text_mask is None else tokens.text_mask[one],
        coordinates=tokens.coordinates[one],
        frames=tokens.frames[one],
        seeds=tokens.seeds[one],
    )
