"""Numbers from scores: arrays in, numbers out."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from adafv.utils.checks import checked

__all__ = ["BINS", "area_under_curve", "bootstrap", "histogram", "profile"]

Array = NDArray[Any]

BINS = 20
"""Stretches of the image sequence in a `profile`."""
RESAMPLES = 2_000


@checked
def area_under_curve(about: Array, score: Array) -> float:
    """The chance that a related token scores higher than an unrelated one; ties count half
    (scikit-learn's AUC).

    Args:
        about: (N,) which tokens are related; at least one is and one isn't.
        score: (N,) numbers.
    """
    return float(roc_auc_score(about, score))


@checked
def profile(score: Array) -> tuple[Array, float]:
    """How a score is spread over the image's sequence of visual tokens.

    Args:
        score: (N,) non-negative, in LLM order.

    Returns:
        (BINS,) mean score in each stretch of the sequence, over the mean of all (1: no bias; NaN:
        no token there), and
        the mean place, 0 (the first token) to 1 (the last), weighted by the score.
    """
    place = (np.arange(len(score)) + 0.5) / len(score)
    share = score.astype(float) / max(float(score.sum(dtype=float)), 1e-300)
    stretch = (place * BINS).astype(int)
    size = np.bincount(stretch, minlength=BINS)
    total = np.bincount(stretch, weights=share * len(score), minlength=BINS)
    return np.divide(total, size, out=np.full(BINS, np.nan), where=size > 0), float(share @ place)


@checked
def bootstrap(
    values: Sequence[float], groups: Sequence[str], seed: int = 0
) -> tuple[float, float | None, float | None]:
    """Mean, and a 95 % percentile interval by resampling images, each with all its questions.

    One image says nothing of others: it has no interval.

    Args:
        values: one for each question.
        groups: the image of each; questions on one image are not independent.
        seed: of the resampling.
    """
    _, member = np.unique(np.asarray(groups), return_inverse=True)
    total, size = np.bincount(member, weights=values), np.bincount(member)
    if len(size) == 1:
        return float(np.mean(values)), None, None
    drawn = np.random.default_rng(seed).integers(0, len(size), (RESAMPLES, len(size)))
    means = total[drawn].sum(1) / size[drawn].sum(1)
    low, high = np.quantile(means, (0.025, 0.975))
    return float(np.mean(values)), float(low), float(high)


@checked
def histogram(values: Array, edges: Array) -> Array:
    """Density between `edges`; what lies beyond them counts at the ends."""
    return np.histogram(values.clip(edges[0], edges[-1]), edges, density=True)[0]
