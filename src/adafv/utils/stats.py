"""Intervals of proportions and of means, where several answers belong to one image."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adafv.utils.checks import checked

__all__ = ["MIN_CHANGED", "Z", "bootstrap", "cluster_variance", "holm", "score_interval", "wilson"]

Z = 1.959964
"""Of a 95 % interval."""

MIN_CHANGED = 10
"""Answers that have to differ from the others for a design effect to be estimated from them."""
RESAMPLES = 2_000
"""Of a `bootstrap`."""


@checked
def wilson(images: Sequence[Sequence[bool]]) -> tuple[float, float]:
    """Return the 95 % interval of a share of right answers, which images have in common.

    Answers on the same image may go right or wrong together. Hence Wilson's score interval on the
    effective number of answers, n / deff, after Dean & Pagano, "Evaluating confidence interval
    methods for binomial proportions in clustered surveys", J. Surv. Stat. Methodol. 2015. Unlike a
    bootstrap it doesn't shrink to a point where all answers are right. There, and as long as fewer
    than `MIN_CHANGED` differ, deff cannot be estimated and every image counts once, as it does with
    one answer per image, where this is Wilson's interval itself. No interval proves more than that
    of fewer answers that differ.

    Args:
        images: for each image whether each answer is right; at least one answer in all.
    """
    sizes = np.array([len(answers) for answers in images], dtype=float)  # (I,)
    right = np.array([sum(answers) for answers in images], dtype=float)  # (I,)
    n = sizes.sum()
    clusters = len(sizes)
    share = right.sum() / n

    # the design effect: variance over images against that of as many independent answers
    differ = min(right.sum(), n - right.sum())
    if differ < MIN_CHANGED or clusters in (1, n):
        return score_interval(share, clusters)
    independent = share * (1 - share) / n
    effective = n / max(1.0, cluster_variance(right, sizes) / independent)
    low, high = score_interval(share, effective)

    # where one fewer differs every image counts once: a further error proves no more
    few = (MIN_CHANGED - 1) / n
    return min(low, score_interval(1 - few, clusters)[0]), max(
        high, score_interval(few, clusters)[1]
    )


@checked
def cluster_variance(right: NDArray[Any], sizes: NDArray[Any]) -> float:
    """Return the variance of a share that is estimated from clusters: the ratio estimator's.

    Args:
        right: (I,) right answers on each image.
        sizes: (I,) answers on each image; two images at least.
    """
    clusters = len(sizes)
    n = sizes.sum()
    residuals = right - right.sum() / n * sizes  # (I,)
    return clusters / (clusters - 1) * (residuals**2).sum() / n**2


@checked
def score_interval(share: float, n: float) -> tuple[float, float]:
    """Return Wilson's 95 % interval of a share of n answers."""
    middle = (share + Z**2 / (2 * n)) / (1 + Z**2 / n)
    half = Z / (1 + Z**2 / n) * math.sqrt(share * (1 - share) / n + Z**2 / (4 * n**2))
    return max(0.0, middle - half), min(1.0, middle + half)


@checked
def bootstrap(
    values: Sequence[float], groups: Sequence[str], seed: int = 0
) -> tuple[float, float | None, float | None]:
    """Return a mean and its 95 % percentile interval, by resampling images with their questions.

    One image says nothing of others: it has no interval.

    Args:
        values: one for each question.
        groups: the image of each; questions on one image are not independent.
        seed: of the resampling.
    """
    member = np.unique(np.asarray(groups), return_inverse=True)[1]  # (questions,)
    total = np.bincount(member, weights=values)  # (I,)
    size = np.bincount(member)  # (I,)
    mean = float(np.mean(values))  # over questions, not over images
    if len(size) == 1:
        return mean, None, None

    # draw images with replacement, and take the mean over the questions of those drawn
    drawn = np.random.default_rng(seed).integers(0, len(size), (RESAMPLES, len(size)))
    means = total[drawn].sum(1) / size[drawn].sum(1)  # (RESAMPLES,)
    low, high = np.quantile(means, (0.025, 0.975))
    return mean, float(low), float(high)


@checked
def holm(chances: Sequence[float]) -> list[float]:
    """Return the p-values of many comparisons, in their order, after Holm's correction for all.

    Each is multiplied by how many are no smaller, is at least as large as those before it, and at
    most 1 (Holm, Scandinavian Journal of Statistics 6, 1979).
    """
    corrected = [0.0] * len(chances)
    largest = 0.0
    for rank, index in enumerate(sorted(range(len(chances)), key=chances.__getitem__)):
        largest = max(largest, min(1.0, chances[index] * (len(chances) - rank)))
        corrected[index] = largest
    return corrected
