"""Intervals of proportions."""

import math
from collections.abc import Sequence

import numpy as np

from adafv.utils.checks import checked

__all__ = ["Z", "score_interval", "wilson"]

Z = 1.959964
"""Of a 95 % interval."""


@checked
def wilson(images: Sequence[Sequence[bool]]) -> tuple[float, float]:
    """95 % interval of a share of right answers, where answers on the same image may go right or
    wrong together.

    Wilson's score interval on the effective number of answers, n / deff, after Dean & Pagano,
    "Evaluating confidence interval methods for binomial proportions in clustered surveys", J. Surv.
    Stat. Methodol. 2015. Unlike a bootstrap it doesn't shrink to a point where all answers are
    right. There, deff cannot be estimated and every image counts once, as it does with one answer
    per image, where this is Wilson's interval itself.

    Args:
        images: for each image whether each answer is right; at least one answer in all.
    """
    sizes = np.array([len(p) for p in images], dtype=float)
    right = np.array([sum(p) for p in images], dtype=float)
    n, clusters = sizes.sum(), len(sizes)
    share = right.sum() / n
    effective = float(clusters)
    if 0 < share < 1 and 1 < clusters < n:
        variance = clusters / (clusters - 1) * ((right - share * sizes) ** 2).sum() / n**2
        effective = n / max(1.0, variance / (share * (1 - share) / n))
    return score_interval(share, effective)


@checked
def score_interval(share: float, n: float) -> tuple[float, float]:
    """Wilson's 95 % interval of a share of n answers."""
    middle = (share + Z**2 / (2 * n)) / (1 + Z**2 / n)
    half = Z / (1 + Z**2 / n) * math.sqrt(share * (1 - share) / n + Z**2 / (4 * n**2))
    return max(0.0, middle - half), min(1.0, middle + half)
