"""What stands under each figure: what is drawn, and the numbers."""

from typing import Any

from adafv.analysis.tables import MEAN, Rows
from adafv.utils.checks import checked

__all__ = ["auc_caption", "fewest_caption", "score_caption", "similarity_caption"]


@checked
def score_caption(rows: Rows) -> str:
    """Of Fig. 1: the mean over the suites, or the one suite's numbers."""
    reductions = _distinct(rows, "reduction", lambda row: row["method"] != "blind")
    suites = _distinct(rows, "suite")
    shown = MEAN if MEAN in suites else suites[0]
    numbers = {
        (r["method"], r["reduction"]): f"{r['score']:.1f}" for r in rows if r["suite"] == shown
    }
    lists = [
        f"{name} {' / '.join(numbers.get((name, r), '–') for r in reductions)}"
        for name in dict.fromkeys(name for name, _ in numbers)
        if name != "blind"
    ]
    gone = " / ".join(f"{100 * r:.3g}" for r in reductions)
    return (
        f"Fig. 1. Score, per cent of the dense model's, with {gone} % of the visual tokens gone. {_capital(shown)}: "
        f"{'; '.join(lists)}. Bars are 95 % intervals, the dashed line is the model without an image."
    )


@checked
def auc_caption(rows: Rows) -> str:
    """Of Fig. 2: every AUC with its interval, and every mean place."""
    parts = []
    for suite in _distinct(rows, "suite", lambda row: row["panel"] == "auc"):
        own = [r for r in rows if r["panel"] == "auc" and r["suite"] == suite]
        numbers = "; ".join(f"{r['signal']} {_with_interval(r)}" for r in own)
        parts.append(f"{_capital(suite)} ({own[0]['n']:,} questions): {numbers}.")
    places = "; ".join(
        f"{r['signal']} {_with_interval(r)}" for r in rows if r["panel"] == "mean position"
    )
    return (
        "Fig. 2. Left: the chance that a visual token in a question's boxes scores higher than one outside them (AUC), "
        "mean over questions, with 95 % intervals; content words are all but the chat template's and function words. "
        f"{' '.join(parts)} Right: mean score along the image's sequence of visual tokens, 1 where it is even. "
        f"Mean place, from 0, the first token, to 1, the last: {places}."
    )


@checked
def similarity_caption(rows: Rows) -> str:
    """Of Fig. 3: the means and how many tokens."""
    numbers = []
    for suite in _distinct(rows, "suite"):
        means = [
            f"{name} {row['mean']:.3f} ({row['n']:,} tokens)"
            for name in ("related", "unrelated")
            for row in [next(r for r in rows if r["suite"] == suite and r["tokens"] == name)]
        ]
        numbers.append(f"{suite}: {', '.join(means)}")
    return (
        "Fig. 3. Cosine of each visual token with the word of the question that it resembles most, for tokens in the "
        f"question's boxes (related) and outside them. Mean, {'; '.join(numbers)}."
    )


@checked
def fewest_caption(rows: Rows) -> str:
    """Of Fig. 4: median and 90th percentile of each method, and where a larger budget may lose a
    token.
    """
    parts = []
    for suite in _distinct(rows, "suite"):
        own = [r for r in rows if r["suite"] == suite]
        numbers = "; ".join(f"{r['method']} {r['median']} / {r['p90']}" for r in own)
        about = f"{own[0]['n']:,} questions, {own[0]['related_tokens']:.0f} of {own[0]['visual_tokens']:.0f} tokens"
        parts.append(f"{_capital(suite)} ({about} in boxes): {numbers}.")
    unsteady = {r["method"]: 0.0 for r in rows if r["scanned"]}
    for row in rows:
        if row["method"] in unsteady:
            unsteady[row["method"]] = max(unsteady[row["method"]], row["scanned"])
    listed = ", ".join(
        f"{name} (up to {100 * share:.0f} % of a suite's questions)"
        for name, share in unsteady.items()
    )
    scanned = f" A larger budget can lose the token again: {listed}." if listed else ""
    return (
        "Fig. 4. Fewest visual tokens to keep until one lies in a question's boxes: median / 90th percentile of the "
        f"questions. {' '.join(parts)} Dot: median, bar: middle half, line: 10th to 90th percentile.{scanned}"
    )


def _with_interval(row: dict[str, Any]) -> str:
    interval = "" if row["ci_low"] is None else f" [{row['ci_low']:.2f}, {row['ci_high']:.2f}]"
    return f"{row['value']:.2f}{interval}"


def _distinct(rows: Rows, column: str, wanted: Any = lambda row: True) -> list[Any]:
    return list(dict.fromkeys(row[column] for row in rows if wanted(row)))


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
