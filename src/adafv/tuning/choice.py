"""From answers to a choice: one row for each method and budget, and which of them holds."""

from collections.abc import Iterable, Sequence
from itertools import takewhile
from statistics import fmean
from typing import Any

from adafv.evaluation.answering import BLIND
from adafv.tuning.questions import Picture
from adafv.tuning.retention import Retention, pictures_needed, retention

__all__ = ["CHOOSING", "COLUMNS", "REPORTING", "Row", "choose", "is_candidate", "rows_of", "verdict"]

CHOOSING, REPORTING = "choosing", "reporting"
COLUMNS = (
    "half", "method", "keep", "kept_tokens", "visual_tokens", "pictures", "n", "right",
    "retention", "ci_low", "ci_high", "holds",
)  # fmt: skip
Row = dict[str, Any]


def rows_of(
    half: str, pictures: Sequence[Picture], records: Iterable[dict[str, Any]], min_retention: float
) -> list[Row]:
    """One row for each method and budget on a half of the pictures, in the order of the records.

    kept_tokens and visual_tokens are means; pictures are those on which the dense model answers anything rightly, n all
    questions, right those of them that are answered rightly; retention and its interval see `retention`; holds: the
    lower end of the interval is `min_retention` at least.

    Raises:
        ValueError: the dense model is never right.
    """
    answers: dict[tuple[str, float], dict[tuple[str, int], dict[str, Any]]] = {}
    for record in records:
        answers.setdefault((record["method"], record["keep"]), {})[record["id"], record["question"]] = record
    dense = answers["none", 1.0]
    truth = {
        (picture.id, i): question.answer or dense[picture.id, i]["answer"]
        for picture in pictures
        for i, question in enumerate(picture.questions)
    }
    rows = []
    for (name, keep), given in answers.items():
        right = {key: _same(given[key]["answer"], truth[key]) for key in truth}
        stands = {key: _same(dense[key]["answer"], truth[key]) for key in truth}
        keys = [[(picture.id, i) for i in range(len(picture.questions))] for picture in pictures]
        found = retention([[(stands[key], right[key]) for key in own] for own in keys])
        if found is None:
            raise ValueError(
                f"the dense model gives none of the {len(truth)} answers that the lines of the {half} half call right: "
                "check how they are written, or leave them out and its own answers count"
            )
        rows.append(_row(half, name, keep, [*given.values()], sum(right.values()), found, min_retention))
    return rows


def choose(rows: Sequence[Row]) -> Row | None:
    """The row of the choosing half with the smallest budget that holds, as all larger ones of its method do.

    Of several methods the one that retains most; where they are level, too, the first. None: nothing holds.
    """
    own = [row for row in rows if is_candidate(row)]
    last = [
        held[-1]
        for name in dict.fromkeys(row["method"] for row in own)
        if (held := [*takewhile(_holds, sorted((r for r in own if r["method"] == name), key=lambda r: -r["keep"]))])
    ]
    return min(last, key=lambda row: (row["keep"], -row["retention"]), default=None)


def verdict(rows: Sequence[Row], pictures: int, min_retention: float) -> str:
    """What came out, in a sentence or two.

    Args:
        rows: of a tuning; those of the reporting half, if there are any, last.
        pictures: in both halves.
        min_retention: what was asked for.
    """
    wanted, last = f"{min_retention:.4g} of the dense model's right answers", rows[-1]
    if last["half"] == REPORTING:
        name = f"{last['method']} at keep={last['keep']:.4g}"
        measured = f"{_interval(last)} on the half that had no say in the choice"
        if last["retention"] >= min_retention:
            return f"{name} holds {wanted}: {measured}."
        return f"{name} was chosen for {wanted}, but retains {measured}: not confirmed. Add lines on other pictures."
    own = [row for row in rows if is_candidate(row)]
    best = max(own, key=lambda row: (row["retention"], -row["keep"]))
    name, counted = f"{best['method']} at keep={best['keep']:.4g}", best["pictures"]
    if counted < (least := pictures_needed(min_retention)):
        more = _more(least, counted, pictures)
        return (
            f"Too few pictures to show {wanted}: {counted} count in the half that chooses, and it takes {least} even "
            f"if no answer differs. Add lines on {more} more. The best so far, {name}, retains {_interval(best)}."
        )
    share = min(best["retention"], 1.0)
    if share > min_retention:
        more = max(1, _more(pictures_needed(min_retention, share), counted, pictures))
        return (
            f"Nothing is shown to hold {wanted}. The best, {name}, retains {_interval(best)}: if that is the truth, "
            f"lines on about {more} more pictures would show it."
        )
    return (
        f"Nothing holds {wanted} at these budgets. The best, {name}, retains {_interval(best)}: pass larger budgets, "
        "other methods or a smaller retention."
    )


def _more(needed: int, counted: int, pictures: int) -> int:
    """Pictures to add so that `needed` count in each half, if as many of the new ones count."""
    return -(-needed * pictures // counted) - pictures


def _row(
    half: str, name: str, keep: float, given: list[dict[str, Any]], right: int, found: Retention, min_retention: float
) -> Row:
    tokens = [fmean(answer[kind] for answer in given) for kind in ("kept_tokens", "visual_tokens")]
    values = (
        half, name, keep, *tokens, found.pictures, len(given), right, found.value, found.low, found.high,
        found.low >= min_retention,
    )  # fmt: skip
    return {k: round(v, 6) if isinstance(v, float) else v for k, v in zip(COLUMNS, values, strict=True)}


def _same(answer: str, truth: str) -> bool:
    return answer.strip().casefold() == truth.strip().casefold()


def is_candidate(row: Row) -> bool:
    """Something to choose from."""
    return row["half"] == CHOOSING and row["method"] not in ("none", BLIND)


def _holds(row: Row) -> bool:
    return row["holds"]


def _interval(row: Row) -> str:
    return f"{row['retention']:.1%} ({row['ci_low']:.1%} to {row['ci_high']:.1%}, {row['pictures']} pictures)"
