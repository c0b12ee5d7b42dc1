"""The rows behind each figure: from findings, and for Fig. 1 from the rows of an evaluation."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np

from adafv.analysis.findings import CHANCE, CONTENT, DISTINCT, MUTUAL, Finding
from adafv.analysis.statistics import BINS, histogram
from adafv.data.sample import BLIND
from adafv.evaluation.report import read
from adafv.utils.checks import checked
from adafv.utils.records import Rows, row_of, where
from adafv.utils.stats import bootstrap

__all__ = [
    "MEAN",
    "FirstHitRow",
    "ScoreRow",
    "SignalRow",
    "SimilarityRow",
    "auc_rows",
    "first_hit_rows",
    "read_results",
    "score_rows",
    "similarity_rows",
]

MEAN = "mean of suites"
REDUCTIONS = (0.75, 0.9, 0.95)
SIMILARITY_BINS = 60


@dataclass(frozen=True)
class ScoreRow:
    """A row of Fig. 1: a method's score, per cent of the dense model's.

    Attributes:
        reduction: share of the visual tokens that is dropped.
        n: questions.
    """

    suite: str  # or `MEAN`
    method: str
    reduction: float
    score: float
    ci_low: float | None
    ci_high: float | None
    n: int


@dataclass(frozen=True)
class SignalRow:
    """A row of Fig. 2: a number of a signal.

    Attributes:
        panel: says which number: "auc", "thumbnail", "mean position" or "position".
        position: where in the sequence of visual tokens, 0 to 1; of panel "position", and of
            "thumbnail", which begins there and ends at `value`. None there: results of earlier
            versions, in which it begins at 0.
        n: questions.
    """

    panel: str
    suite: str
    signal: str
    position: float | None
    value: float
    ci_low: float | None
    ci_high: float | None
    n: int


@dataclass(frozen=True)
class SimilarityRow:
    """A row of Fig. 3: a bar of a histogram.

    Attributes:
        tokens: "related" or "unrelated".
        cosine_from, cosine_to: its edges.
        mean, n: of all tokens of the histogram.
    """

    suite: str
    tokens: str
    cosine_from: float
    cosine_to: float
    density: float
    mean: float
    n: int


@dataclass(frozen=True)
class FirstHitRow:
    """A row of Fig. 4: quantiles of a method's first-hit budget.

    Attributes:
        n: questions.
        visual_tokens, related_tokens: means.
        scanned: share of the questions for which larger budgets can lose the token again.
    """

    suite: str
    method: str
    n: int
    p10: int
    p25: int
    median: int
    p75: int
    p90: int
    visual_tokens: float
    related_tokens: float
    scanned: float


def read_results(path: str | Path) -> Rows:
    """Return the rows of `adafv eval` that are on all questions of a suite.

    Args:
        path: of the `results.json` that it has written.

    Raises:
        ValueError: the file cannot be read, is not such a file, or has no row of a pruned model.
    """
    rows = where(read(path)["rows"], question_type="all")
    dense = _dense(rows)
    if not any(0 < row["keep"] < 1 and dense.get(row["suite"]) for row in rows):
        raise ValueError(
            f"{path} has no row of a pruned model: run adafv eval with --keep 0.25,0.1,0.05"
        )
    return rows


@checked
def score_rows(results: Rows) -> Rows:
    """Return the rows of Fig. 1: score against the share of tokens that is dropped.

    At the paper's reductions, where any of them was measured, else at all that were. With several
    suites their mean comes last, over methods and reductions that all suites have; it has no
    interval.
    """
    dense = _dense(results)
    pruned = [row for row in results if row["keep"] < 1 and dense.get(row["suite"])]

    # at 1 nothing is kept: the blind model
    measured = {_reduction(row) for row in pruned if row["keep"] > 0}
    wanted = {1.0, *(measured & set(REDUCTIONS) or measured)}

    rows = []
    for row in pruned:
        reduction = _reduction(row)
        if reduction in wanted:
            # per cent of the dense model's
            scale = dense[row["suite"]]
            rows.append(
                ScoreRow(
                    suite=row["suite"],
                    method=row["method"],
                    reduction=reduction,
                    score=100 * row["accuracy"] / scale,
                    ci_low=100 * row["ci_low"] / scale,
                    ci_high=100 * row["ci_high"] / scale,
                    n=row["n"],
                )
            )
    rows += _means(rows)
    return [row_of(row) for row in rows]


def _means(rows: Sequence[ScoreRow]) -> list[ScoreRow]:
    """Return the means over several suites, of what all of them have."""
    suites = set(map(attrgetter("suite"), rows))
    if len(suites) < 2:
        return []
    groups: dict[tuple[str, float], list[ScoreRow]] = {}
    for row in rows:
        groups.setdefault((row.method, row.reduction), []).append(row)

    means = []
    for (method, reduction), same in groups.items():
        # a mean over other suites would not compare with the others
        if len(same) == len(suites):
            means.append(
                ScoreRow(
                    suite=MEAN,
                    method=method,
                    reduction=reduction,
                    score=_mean(same, "score"),
                    ci_low=None,
                    ci_high=None,
                    n=sum(row.n for row in same),
                )
            )
    # a mean of what sees no image alone compares nothing
    return means if any(row.method != BLIND for row in means) else []


def _dense(results: Rows) -> dict[str, float]:
    """Return the dense model's accuracy by suite."""
    return {row["suite"]: row["accuracy"] for row in where(results, method="none")}


def _reduction(row: dict[str, Any]) -> float:
    # 1 - 0.9 is not 0.1
    return round(1 - row["keep"], 6)


@checked
def auc_rows(findings: Sequence[Finding], seed: int = 0) -> Rows:
    """Return the rows of Fig. 2: AUCs, where the thumbnail lies, and position biases.

    An AUC is the mean over questions of each question's own, so that scores are only compared
    within one image.
    """
    rows = []
    for suite, own in _by_suite(findings).items():
        images = list(map(attrgetter("image"), own))
        for signal in own[0].auc:
            values = [finding.auc[signal] for finding in own]
            value, low, high = bootstrap(values, images, seed)
            rows.append(SignalRow("auc", suite, signal, None, value, low, high, len(own)))

    # where the thumbnail begins and ends, over all suites, in images that have one
    found = [finding.thumbnail for finding in findings if finding.thumbnail[1]]
    begin, end = map(float, np.mean(found or [(0.0, 0.0)], axis=0))
    rows.append(SignalRow("thumbnail", "all", "", begin, end, None, None, len(found)))

    # ids of images are unique within a suite
    count = len(findings)
    images = [f"{finding.suite}/{finding.image}" for finding in findings]
    for signal in findings[0].position:
        # words and chance do not change where a score lies, and some signals are shown once
        if signal in (CHANCE, MUTUAL, DISTINCT) or signal.endswith(CONTENT):
            continue

        # the mean position of the score's mass
        centres = [finding.centre[signal] for finding in findings]
        value, low, high = bootstrap(centres, images, seed)
        rows.append(SignalRow("mean position", "all", signal, None, value, low, high, count))

        # the score along the sequence; NaN: no token fell there
        profiles = [finding.position[signal] for finding in findings]
        stretches = np.nanmean(profiles, axis=0)  # (BINS,)
        for i in np.flatnonzero(np.isfinite(stretches)):
            position = float((i + 0.5) / BINS)
            value = float(stretches[i])
            rows.append(SignalRow("position", "all", signal, position, value, None, None, count))
    return [row_of(row) for row in rows]


@checked
def similarity_rows(findings: Sequence[Finding]) -> Rows:
    """Return the rows of Fig. 3: densities of the cosines of related and of unrelated tokens.

    They are per suite, over all questions.
    """
    # the same edges for all, so that histograms compare
    everything: list[Any] = []
    for finding in findings:
        everything += finding.similarity
    low, high = np.quantile(np.concatenate(everything), (0.0005, 0.9995))
    edges = np.linspace(low, max(high, low + 1e-6), SIMILARITY_BINS + 1)

    rows = []
    # a bar of a histogram is a row
    for suite, own in _by_suite(findings).items():
        for which, name in enumerate(("related", "unrelated")):
            values = np.concatenate([finding.similarity[which] for finding in own])
            mean = float(values.mean())
            for i, density in enumerate(histogram(values, edges)):
                row = SimilarityRow(
                    suite=suite,
                    tokens=name,
                    cosine_from=float(edges[i]),
                    cosine_to=float(edges[i + 1]),
                    density=float(density),
                    mean=mean,
                    n=len(values),
                )
                rows.append(row_of(row))
    return rows


@checked
def first_hit_rows(findings: Sequence[Finding]) -> Rows:
    """Return the rows of Fig. 4: quantiles of first-hit budgets over the questions of a suite."""
    rows = []
    for suite, own in _by_suite(findings).items():
        for name in own[0].first_hit:
            # sorted once for all quantiles
            hits = [finding.first_hit[name] for finding in own]
            budgets = sorted(hit.tokens for hit in hits)
            row = FirstHitRow(
                suite=suite,
                method=name,
                n=len(own),
                p10=_quantile(budgets, 0.1),
                p25=_quantile(budgets, 0.25),
                median=_quantile(budgets, 0.5),
                p75=_quantile(budgets, 0.75),
                p90=_quantile(budgets, 0.9),
                visual_tokens=_mean(own, "visual_tokens"),
                related_tokens=_mean(own, "related_tokens"),
                scanned=_mean(hits, "scanned"),
            )
            rows.append(row_of(row))
    return rows


def _quantile(values: Sequence[int], share: float) -> int:
    """Return the smallest of sorted values that `share` of them don't exceed.

    It is a number of tokens, never between two.
    """
    return values[max(0, math.ceil(share * len(values)) - 1)]


def _mean(entries: Sequence[Any], name: str) -> float:
    """Return the mean of an attribute."""
    return float(np.mean(list(map(attrgetter(name), entries))))


def _by_suite(findings: Iterable[Finding]) -> dict[str, list[Finding]]:
    suites: dict[str, list[Finding]] = {}
    for finding in findings:
        suites.setdefault(finding.suite, []).append(finding)
    return suites
