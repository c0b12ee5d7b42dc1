"""The captions: what each figure shows, and its numbers."""

from dataclasses import dataclass
from typing import Any

from adafv.analysis.tables import MEAN
from adafv.utils.checks import checked
from adafv.utils.records import Rows, distinct, where

__all__ = [
    "Caption",
    "auc_caption",
    "first_hit_caption",
    "score_caption",
    "similarity_caption",
]


@dataclass(frozen=True)
class Caption:
    """The text under a figure: what it shows, and its numbers, for which a page has no room."""

    shows: str
    numbers: str

    def __str__(self) -> str:
        return f"{self.shows} {self.numbers}"


@checked
def score_caption(rows: Rows) -> Caption:
    """Return that of Fig. 1: the mean over the suites, or the one suite's numbers."""
    pruned = [row for row in rows if row["method"] != "blind"]
    reductions = distinct(pruned, "reduction")
    suites = distinct(rows, "suite")
    shown = MEAN if MEAN in suites else suites[0]

    # score by method and reduction; a method may lack one of them
    numbers: dict[str, dict[float, str]] = {}
    for row in where(pruned, suite=shown):
        numbers.setdefault(row["method"], {})[row["reduction"]] = f"{row['score']:.1f}"
    lists = []
    for name, scores in numbers.items():
        own = [scores.get(reduction, "–") for reduction in reductions]
        lists.append(f"{name} {' / '.join(own)}")

    dropped = " / ".join(f"{100 * reduction:.3g}" for reduction in reductions)
    return Caption(
        f"Fig. 1. Score, per cent of the dense model's, with {dropped} % of the visual tokens "
        f"gone. Broad: {shown}. Thin: each suite. Grey: the other methods. Dashed: the model "
        "without an image. Beside each name: its last score.",
        f"{_capital(shown)}: {'; '.join(lists)}.",
    )


@checked
def auc_caption(rows: Rows) -> Caption:
    """Return that of Fig. 2: every AUC with its interval, and every mean position."""
    # left: suite by suite
    aucs = where(rows, panel="auc")
    parts = []
    for suite in distinct(aucs, "suite"):
        own = where(aucs, suite=suite)
        numbers = "; ".join(map(_with_interval, own))
        parts.append(f"{_capital(suite)} ({own[0]['n']:,} questions): {numbers}.")

    # right: over all suites
    means = where(rows, panel="mean position")
    positions = "; ".join(map(_with_interval, means))
    return Caption(
        "Fig. 2. Left: the chance that a visual token in a question's boxes scores higher than one "
        "outside them (AUC), mean over questions, with 95 % intervals. Content words are all but "
        "the chat template's and function words. Right: mean score along the sequence, 1 where it "
        "is even.",
        f"{' '.join(parts)} Mean place, from 0, the first token, to 1, the last: {positions}.",
    )


@checked
def similarity_caption(rows: Rows) -> Caption:
    """Return that of Fig. 3: the means, and how many tokens."""
    numbers = []
    for suite in distinct(rows, "suite"):
        means = []
        for name in ("related", "unrelated"):
            # every bar of a histogram says its mean
            row = where(rows, suite=suite, tokens=name)[0]
            means.append(f"{name} {row['mean']:.3f} ({row['n']:,} tokens)")
        numbers.append(f"{suite}: {', '.join(means)}")
    return Caption(
        "Fig. 3. Cosine of each visual token with the word of the question that it resembles most, "
        "for tokens in the question's boxes (related) and outside them.",
        f"Mean, {'; '.join(numbers)}.",
    )


@checked
def first_hit_caption(rows: Rows) -> Caption:
    """Return that of Fig. 4: median and 90th percentile, and which methods may lose a token."""
    # quantiles, suite by suite
    parts = []
    for suite in distinct(rows, "suite"):
        own = where(rows, suite=suite)
        first = own[0]
        numbers = "; ".join(f"{row['method']} {row['median']} / {row['p90']}" for row in own)
        about = (
            f"{first['n']:,} questions, {first['related_tokens']:.0f} of "
            f"{first['visual_tokens']:.0f} tokens"
        )
        parts.append(f"{_capital(suite)} ({about} in boxes): {numbers}.")

    # methods that lose a related token again under a larger budget, on any suite
    unsteady: dict[str, float] = {}
    for row in rows:
        if row["scanned"]:
            share = unsteady.get(row["method"], 0.0)
            unsteady[row["method"]] = max(share, row["scanned"])
    listed = []
    for name, share in unsteady.items():
        listed.append(f"{name} (up to {100 * share:.0f} % of a suite's questions)")
    scanned = ""
    if listed:
        scanned = f" A larger budget can lose the token again: {', '.join(listed)}."
    return Caption(
        "Fig. 4. Fewest visual tokens to keep until one lies in a question's boxes. Dot: median, "
        f"bar: middle half, line: 10th to 90th percentile of the questions.{scanned}",
        f"Median / 90th percentile. {' '.join(parts)}",
    )


def _with_interval(row: dict[str, Any]) -> str:
    """Return a signal with its value, and with its interval where it has one."""
    # a single image has none
    interval = ""
    if row["ci_low"] is not None:
        interval = f" [{row['ci_low']:.2f}, {row['ci_high']:.2f}]"
    return f"{row['signal']} {row['value']:.2f}{interval}"


def _capital(text: str) -> str:
    """Return a text with its first letter in capital, the others as they are."""
    return text[:1].upper() + text[1:]
