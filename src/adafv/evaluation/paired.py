"""Is one method better than another on the same questions, or is it luck?"""

from collections import defaultdict
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import numpy as np

from adafv.utils.checks import checked

__all__ = ["DRAWS", "SIGNIFICANT", "paired"]

DRAWS, SIGNIFICANT = 4_000, 0.05
Group = tuple[str, float]


@checked
def paired(
    records: Iterable[dict[str, Any]], methods: Iterable[str], seed: int = 0
) -> list[dict[str, Any]]:
    """Each of `methods` against every other method at the same budget, question by question.

    Questions on one image go right or wrong together, so images are what is drawn: the interval
    of the difference is a bootstrap over images, the p-value a sign-flip permutation test over
    them (two-sided; McNemar's test, where there is one question per image). Neither is corrected
    for the number of comparisons.

    Args:
        records: of an evaluation, see `Evaluation.run`.
        methods: names; those that are not in the records are passed over.

    Returns:
        Rows of suite, keep, method, rival, n, difference (accuracy of the method minus that of the
        rival), ci_low,
        ci_high, p.
    """
    groups: dict[Group, dict[str, dict[tuple[str, int], bool]]] = defaultdict(
        lambda: defaultdict(dict)
    )
    for r in records:
        groups[r["suite"], r["keep"]][r["method"]][r["id"], r["question"]] = r["correct"]
    rows = []
    for (suite, keep), right in groups.items():
        for method, rival in ((m, r) for m in methods if m in right for r in right if r != m):
            questions = [q for q in right[method] if q in right[rival]]
            difference, low, high, p = _compare(
                [q[0] for q in questions],
                [right[method][q] - right[rival][q] for q in questions],
                seed,
            )
            values = suite, keep, method, rival, len(questions), difference, low, high, p
            names = (
                "suite",
                "keep",
                "method",
                "rival",
                "n",
                "difference",
                "ci_low",
                "ci_high",
                "p",
            )
            rows.append(
                {
                    k: round(v, 6) if isinstance(v, float) else v
                    for k, v in zip(names, values, strict=True)
                }
            )
    return rows


def _compare(images: list[str], gains: list[int], seed: int) -> tuple[float, float, float, float]:
    """Mean gain, its 95 % interval, and the p-value of no difference."""
    index = np.unique(images, return_inverse=True)[1]
    gain, size = np.bincount(index, gains), np.bincount(index)
    drawn, signs = _draws(len(size), seed)
    low, high = np.percentile(drawn @ gain / (drawn @ size), [2.5, 97.5])
    as_large = int((abs(signs @ gain) >= abs(gain.sum()) - 1e-6).sum())
    return float(gain.sum() / size.sum()), float(low), float(high), (as_large + 1) / (DRAWS + 1)


@lru_cache(maxsize=4)
def _draws(images: int, seed: int) -> tuple[Any, Any]:
    """How often each image is drawn, and which sign it gets: (DRAWS, images) each."""
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(images, np.full(images, 1 / images), size=DRAWS).astype(float)
    return drawn, rng.choice([-1.0, 1.0], size=(DRAWS, images))
