"""Two methods on the same questions: is one better, or is it luck?"""

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from adafv.data.sample import BLIND
from adafv.evaluation.copies import first_copies
from adafv.utils.checks import checked
from adafv.utils.records import row_of

__all__ = ["DRAWS", "SIGNIFICANT", "Pair", "compared", "paired"]

DRAWS = 4_000
SIGNIFICANT = 0.05
OURS = ("adafv", "adafv+")
NO_RIVALS = ("none", BLIND)
"""What is alone at its budget."""

Budget = tuple[str, float]
"""suite, keep"""
Question = tuple[str, int]
"""An image, and which question about it."""
Right = dict[str, dict[Question, bool]]
"""By method and question, if the answer is right."""


@dataclass(frozen=True)
class Pair:
    """Two methods at one budget on one suite.

    Attributes:
        n: questions that both have answered.
        difference: accuracy of the method minus that of the rival.
        ci_low, ci_high: 95 % interval of the difference, outside of which 0 lies where p < 0.05;
            None: of one image, which says nothing of others.
        p: of no difference.
    """

    suite: str
    keep: float
    method: str
    rival: str
    n: int
    difference: float
    ci_low: float | None
    ci_high: float | None
    p: float


@checked
def compared(methods: Iterable[str], against: Sequence[str] = ()) -> list[str]:
    """Return the methods that all others are compared with.

    Args:
        methods: that take part.
        against: those that are asked for; none: ours where they take part, else the first.

    Raises:
        ValueError: one that is asked for does not take part, or has no budget.
    """
    candidates = [name for name in dict.fromkeys(methods) if name not in NO_RIVALS]
    for name in against:
        if name not in candidates:
            hint = f"pass some of {', '.join(candidates)}" if candidates else "leave it out"
            raise ValueError(f"--against {name}, which has no rivals here: {hint}")
    ours = [name for name in OURS if name in candidates]
    return list(dict.fromkeys(against)) or ours or candidates[:1]


@checked
def paired(
    records: Iterable[dict[str, Any]], methods: Iterable[str], seed: int = 0
) -> list[dict[str, Any]]:
    """Compare each of `methods` with every other method at the same budget, question by question.

    Questions on one image go right or wrong together, so the p-value is that of a sign-flip
    permutation test over images (two-sided; McNemar's test, where there is one question per image).
    The interval is the same test inverted: it holds every difference that the test does not reject
    at 5 %, so that 0 lies outside where p < 0.05 and only there. Too few images to reject anything
    leave -1 to 1. Neither is corrected for the number of comparisons.

    Args:
        records: of an evaluation, see `Evaluation.run`.
        methods: names; those that are not in the records are passed over.
        seed: of what is drawn.

    Returns:
        A `Pair` as a row for each suite, keep, method and rival.
    """
    groups: dict[Budget, Right] = defaultdict(lambda: defaultdict(dict))
    for record in records:
        right = groups[record["suite"], record["keep"]]
        right[record["method"]][record["id"], record["question"]] = record["correct"]

    rows = []
    methods = list(methods)
    for (suite, keep), right in groups.items():
        for method in methods:
            if method not in right:
                continue
            for rival in right:
                if rival != method:
                    pair = _compared(suite, keep, method, rival, right, seed)
                    rows.append(row_of(pair))
    return rows


def _compared(suite: str, keep: float, method: str, rival: str, right: Right, seed: int) -> Pair:
    # 1: the method alone is right, -1: the rival alone, 0: both or neither
    images = []
    gains = []
    for question, own in right[method].items():
        if question in right[rival]:
            images.append(question[0])
            gains.append(own - right[rival][question])

    # by image
    first = first_copies(images)
    images = [first[name] for name in images]
    index = np.unique(images, return_inverse=True)[1]  # (n,)
    gain = np.bincount(index, gains)  # (I,)
    size = np.bincount(index)  # (I,)
    total = gain.sum()
    signs = _signs(len(size), seed)  # (DRAWS, I)
    flipped = signs @ gain  # (DRAWS,)

    # if the names of the two meant nothing, each image could as well have the other sign; the sum
    # at hand is one of the draws
    as_large = int((abs(flipped) >= abs(total) - 1e-6).sum())
    low, high = None, None
    if len(size) > 1:
        low, high = _interval(total, size.sum(), flipped, signs @ size)
    return Pair(
        suite=suite,
        keep=keep,
        method=method,
        rival=rival,
        n=len(gains),
        difference=float(total / size.sum()),
        ci_low=low,
        ci_high=high,
        p=(as_large + 1) / (DRAWS + 1),
    )


def _interval(gain: float, size: int, flipped: Any, sizes: Any) -> tuple[float, float]:
    """Return the least and the largest difference that the test does not reject.

    A difference d turns the gain of an image into gain - d * size. The sum over the images is then
    no larger than that of a draw, in absolute value, exactly where d lies between the mean gain of
    those with one sign and that of those with the other.

    Args:
        gain, size: sums over the images.
        flipped, sizes: (DRAWS,) the same sums with the signs of each draw.
    """
    # the mean gain of the images of each sign; where all have the same one, d is anything
    with np.errstate(divide="ignore", invalid="ignore"):
        plus = (gain + flipped) / (size + sizes)  # (DRAWS,)
        minus = (gain - flipped) / (size - sizes)  # (DRAWS,)
    alike = abs(sizes) == size
    lows = np.where(alike, -1.0, np.minimum(plus, minus))
    highs = np.where(alike, 1.0, np.maximum(plus, minus))

    # not rejected: so many draws, and the sum at hand, are 5 % at least
    least = math.ceil(SIGNIFICANT * (DRAWS + 1)) - 1
    return float(np.sort(lows)[least - 1]), float(np.sort(highs)[-least])


@lru_cache(maxsize=4)
def _signs(images: int, seed: int) -> Any:
    """Draw which sign each image gets: (DRAWS, I)."""
    rng = np.random.default_rng(seed)
    # drawn and left, so that p-values stay those of committed results, which had a bootstrap first
    rng.multinomial(images, np.full(images, 1 / images), size=DRAWS)
    return rng.choice([-1.0, 1.0], size=(DRAWS, images))
