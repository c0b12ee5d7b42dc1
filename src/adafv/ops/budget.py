"""The budget: how many tokens K of an image's N are kept, and how a budget is split exactly."""

import math
from numbers import Real
from typing import Any, TypeVar

from torch import Tensor

from adafv.utils.checks import check_size, checked

__all__ = [
    "BudgetError",
    "check_budget",
    "check_share",
    "num_keep",
    "refuse_auto",
    "share_of",
    "split_budget",
]


SLACK = 1e-9
"""What a product may lack: 0.29 · 100 is 29 less 4e-15 in floating point."""
Count = TypeVar("Count", int, Tensor)


class BudgetError(ValueError):
    """A method cannot meet this budget on this image or model."""


@checked
def num_keep(count: int, keep: float | None = None, tokens: int | None = None) -> int:
    """Return K = max(1, floor(keep · N + 0.5)), or `tokens`, never more than N.

    Args:
        count: N, visual tokens of the image.
        keep: share of them. None: `tokens` says it.
        tokens: K itself.
    """
    if tokens is not None:
        return min(int(tokens), count)
    assert keep is not None
    # a half is rounded up; one token is always kept
    return max(1, math.floor(keep * count + 0.5 + SLACK))


@checked
def share_of(budget: Count, share: float) -> Count:
    """Return floor(share · budget) of one budget, or of each in a tensor of integers."""
    if isinstance(budget, Tensor):
        return (budget.double() * share + SLACK).floor().long()
    return math.floor(budget * share + SLACK)


@checked
def split_budget(budget: int, sizes: list[int]) -> list[int]:
    """Split a budget in proportion to sizes, exactly.

    Every part gets the whole number below its share; what is left goes to the largest remainders
    first, and where those tie to the lower index.
    """
    total = sum(sizes)
    shares = [budget * size // total for size in sizes]
    # stable, so that the lower index goes first where remainders tie
    by_remainder = sorted(range(len(sizes)), key=lambda i: -(budget * sizes[i] % total))
    for i in by_remainder[: budget - sum(shares)]:
        shares[i] += 1
    return shares


@checked
def refuse_auto(keep: Any) -> None:
    """Raise a `ValueError` for keep="auto": no rule that finds a budget was worth it."""
    if isinstance(keep, str) and keep == "auto":
        raise ValueError(
            "keep='auto' does not exist, since no rule that finds each question a budget was ahead "
            "of one budget for all (docs/choosing-a-budget.md): pass keep=0.1, or find one with "
            "`adafv tune`"
        )


@checked
def check_budget(keep: float | None, tokens: int | None) -> None:
    """Raise a `ValueError` unless one of the two is given, and in its range."""
    if (keep is None) == (tokens is None):
        given = "both are" if keep is not None else "neither is"
        raise ValueError(
            f"{given} given: pass either keep (a share, e.g. 0.1) or tokens (a number, e.g. 144)"
        )
    refuse_auto(keep)
    for name, value in (("keep", keep), ("tokens", tokens)):
        # True is an int for Python, and no budget
        if value is not None and (isinstance(value, bool) or not isinstance(value, Real)):
            raise ValueError(f"{name}={value!r} is not a number: pass keep=0.1, or tokens=144")
        check_size(name, value)
    if keep is not None and not 0 < keep <= 1:
        hint = ""
        if 1 < keep <= 100:
            # per cent, as it seems
            hint = f"; {keep:g} % is {keep / 100:g}, or {keep:g}% on the command line"
        raise ValueError(
            f"keep={keep} is not a share of the visual tokens: pass 0 < keep <= 1{hint}"
        )
    whole = tokens is None or (math.isfinite(tokens) and tokens == int(tokens))
    if tokens is not None and (not whole or tokens < 1):
        raise ValueError(
            f"tokens={tokens} is not a number of visual tokens: pass an integer of 1 or more"
        )


@checked
def check_share(name: str, value: float) -> None:
    """Raise a `ValueError` unless an option is a share of the budget, from 0 to 1."""
    if not 0 <= value <= 1:
        raise ValueError(f"{name}={value} is not a share of the budget: pass 0 to 1")
