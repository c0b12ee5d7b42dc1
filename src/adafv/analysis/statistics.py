"""Numbers from scores: arrays in, numbers out."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from adafv.utils.checks import checked

__all__ = ["BINS", "area_under_curve", "histogram", "profile"]

Array = NDArray[Any]

BINS = 20
"""Stretches of the image sequence in a `profile`."""


@checked
def area_under_curve(related: Array, score: Array) -> float:
    """Return the chance that a related token scores higher than an unrelated one.

    Ties count half: it is scikit-learn's AUC.

    Args:
        related: (N,) which tokens are related; at least one is and one isn't.
        score: (N,) numbers.
    """
    return float(roc_auc_score(related, score))


@checked
def profile(score: Array) -> tuple[Array, float]:
    """Return how a score is spread over the image's sequence of visual tokens.

    Args:
        score: (N,) non-negative, in LLM order.

    Returns:
        (BINS,) mean score in each stretch of the sequence, over the mean of all (1: no bias; NaN:
        no token there), and the mean position, 0 (the first token) to 1 (the last), weighted by the
        score.
    """
    position = (np.arange(len(score)) + 0.5) / len(score)  # (N,)
    # a score that is 0 everywhere has no spread, and must not divide by 0
    share = score.astype(float) / max(float(score.sum(dtype=float)), 1e-300)  # (N,)

    stretch = (position * BINS).astype(int)  # (N,)
    size = np.bincount(stretch, minlength=BINS)  # (BINS,)
    total = np.bincount(stretch, weights=share * len(score), minlength=BINS)  # (BINS,)
    means = np.divide(total, size, out=np.full(BINS, np.nan), where=size > 0)
    return means, float(share @ position)


@checked
def histogram(values: Array, edges: Array) -> Array:
    """Return the density between `edges`; what lies beyond them counts at the ends."""
    # what lies beyond must count, or the density would not be that of all values
    return np.histogram(values.clip(edges[0], edges[-1]), edges, density=True)[0]
