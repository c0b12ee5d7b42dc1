"""The rows behind each figure: from findings, and for Fig. 1 from the rows of an evaluation."""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from adafv.analysis.measure import CHANCE, CONTENT, DISTINCT, MUTUAL, Finding
from adafv.analysis.statistics import BINS, bootstrap, histogram
from adafv.evaluation.report import read
from adafv.utils.checks import checked

__all__ = ["MEAN", "auc_rows", "fewest_rows", "read_results", "score_rows", "similarity_rows"]

Rows = list[dict[str, Any]]

MEAN = "mean of suites"
REDUCTIONS = (0.75, 0.9, 0.95)
QUANTILES = {"p10": 0.1, "p25": 0.25, "median": 0.5, "p75": 0.75, "p90": 0.9}


def read_results(path: str | Path) -> Rows:
    """The rows of a `results.json` that `adafv eval` has written, those on all questions of a
    suite.

    Raises:
        ValueError: the file cannot be read, is no such file, or has no row of a pruned model.
    """
    rows = [row for row in read(path)["rows"] if row["question_type"] == "all"]
    if not any(0 < row["keep"] < 1 and _dense(rows).get(row["suite"]) for row in rows):
        raise ValueError(
            f"{path} has no row of a pruned model: run adafv eval with --keep 0.25,0.1,0.05"
        )
    return rows


@checked
def score_rows(results: Rows) -> Rows:
    """Fig. 1: score, per cent of the dense model's, against the share of tokens that is gone.

    At the paper's reductions, where any of them was measured, else at all that were. With several
    suites their mean comes last, over methods and reductions that all suites have; it has no
    interval.
    """
    dense = _dense(results)
    pruned = [row for row in results if row["keep"] < 1 and dense.get(row["suite"])]
    measured = {_reduction(row) for row in pruned if row["keep"] > 0}
    wanted = {1.0, *(measured & set(REDUCTIONS) or measured)}
    rows: Rows = [
        {
            "suite": row["suite"],
            "method": row["method"],
            "reduction": _reduction(row),
            "score": 100 * row["accuracy"] / dense[row["suite"]],
            "ci_low": 100 * row["ci_low"] / dense[row["suite"]],
            "ci_high": 100 * row["ci_high"] / dense[row["suite"]],
            "n": row["n"],
        }
        for row in pruned
        if _reduction(row) in wanted
    ]
    suites = {row["suite"] for row in rows}
    means: dict[tuple[str, float], Rows] = {}
    for row in rows:
        means.setdefault((row["method"], row["reduction"]), []).append(row)
    for (name, reduction), same in means.items() if len(suites) > 1 else ():
        if len(same) == len(suites):
            score, n = float(np.mean([row["score"] for row in same])), sum(row["n"] for row in same)
            rows.append(
                {"suite": MEAN, "method": name, "reduction": reduction, "score": score,
                 "ci_low": None, "ci_high": None, "n": n}
            )  # fmt: skip
    return _rounded(rows)


def _dense(results: Rows) -> dict[str, float]:
    return {row["suite"]: row["accuracy"] for row in results if row["method"] == "none"}


def _reduction(row: dict[str, Any]) -> float:
    return round(1 - row["keep"], 6)


@checked
def auc_rows(findings: Sequence[Finding], seed: int = 0) -> Rows:
    """Fig. 2: the AUC of each signal on each suite, then where the thumbnail ends, and each
    signal's position bias.

    An AUC is the mean over questions of each question's own, so that scores are only compared
    within one image.
    """
    rows: Rows = []
    for suite, own in _by_suite(findings).items():
        for signal in own[0].auc:
            value, low, high = bootstrap([f.auc[signal] for f in own], [f.image for f in own], seed)
            rows.append(_auc_row("auc", suite, signal, None, value, low, high, len(own)))
    thumbnail = float(np.mean([f.thumbnail for f in findings]))
    rows.append(_auc_row("thumbnail", "all", "", None, thumbnail, None, None, len(findings)))
    images = [f"{f.suite}/{f.image}" for f in findings]
    for signal in findings[0].position:
        if signal in (CHANCE, MUTUAL, DISTINCT) or signal.endswith(CONTENT):
            continue
        value, low, high = bootstrap([f.centre[signal] for f in findings], images, seed)
        rows.append(_auc_row("mean position", "all", signal, None, value, low, high, len(findings)))
        stretches = np.nanmean([f.position[signal] for f in findings], axis=0)
        for i in np.flatnonzero(np.isfinite(stretches)):
            place, value = (i + 0.5) / BINS, float(stretches[i])
            rows.append(
                _auc_row("position", "all", signal, float(place), value, None, None, len(findings))
            )
    return _rounded(rows)


def _auc_row(panel: str, suite: str, signal: str, position: float | None, value: float, low: float | None,
             high: float | None, n: int) -> dict[str, Any]:  # fmt: skip
    return {
        "panel": panel, "suite": suite, "signal": signal, "position": position,
        "value": value, "ci_low": low, "ci_high": high, "n": n,
    }  # fmt: skip


@checked
def similarity_rows(findings: Sequence[Finding], bins: int = 60) -> Rows:
    """Fig. 3: density of the cosines of related and of unrelated tokens, per suite, over all
    questions.
    """
    everything = np.concatenate([values for f in findings for values in f.similarity])
    low, high = np.quantile(everything, (0.0005, 0.9995))
    edges = np.linspace(low, max(high, low + 1e-6), bins + 1)
    rows: Rows = []
    for suite, own in _by_suite(findings).items():
        for which, name in enumerate(("related", "unrelated")):
            values = np.concatenate([f.similarity[which] for f in own])
            for i, density in enumerate(histogram(values, edges)):
                rows.append({
                    "suite": suite, "tokens": name, "cosine_from": float(edges[i]), "cosine_to": float(edges[i + 1]),
                    "density": float(density), "mean": float(values.mean()), "n": len(values),
                })  # fmt: skip
    return _rounded(rows)


@checked
def fewest_rows(findings: Sequence[Finding]) -> Rows:
    """Fig. 4: quantiles over the questions of a suite of the fewest tokens that keep a related one.

    `scanned` is the share of questions for which larger budgets can lose the token again.
    """
    return _rounded([
        {
            "suite": suite,
            "method": name,
            "n": len(own),
            **{q: _quantile([f.fewest[name].tokens for f in own], share) for q, share in QUANTILES.items()},
            "visual_tokens": float(np.mean([f.visual_tokens for f in own])),
            "related_tokens": float(np.mean([f.related_tokens for f in own])),
            "scanned": float(np.mean([f.fewest[name].scanned for f in own])),
        }
        for suite, own in _by_suite(findings).items()
        for name in own[0].fewest
    ])  # fmt: skip


def _quantile(values: list[int], share: float) -> int:
    """The smallest value that `share` of the values don't exceed: a number of tokens, never between
    two.
    """
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def _by_suite(findings: Iterable[Finding]) -> dict[str, list[Finding]]:
    suites: dict[str, list[Finding]] = {}
    for finding in findings:
        suites.setdefault(finding.suite, []).append(finding)
    return suites


def _rounded(rows: Rows) -> Rows:
    return [{k: round(v, 6) if isinstance(v, float) else v for k, v in row.items()} for row in rows]
