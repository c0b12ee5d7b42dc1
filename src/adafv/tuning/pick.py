"""From answers to a choice: one row for each method and budget, and which of them holds."""

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import takewhile
from statistics import fmean
from typing import Any

from adafv.data.sample import BLIND
from adafv.tuning.questions import ImageFile
from adafv.tuning.retention import Answers, Effects, Retention, effects_of, needed, retention
from adafv.utils.checks import checked

__all__ = [
    "CHOOSING",
    "COLUMNS",
    "REPORTING",
    "Row",
    "answers_of",
    "choose",
    "effects_in",
    "is_candidate",
    "rows_of",
    "verdict",
]

CHOOSING, REPORTING = "choosing", "reporting"
COLUMNS = (
    "half", "method", "keep", "kept_tokens", "visual_tokens", "pictures", "n", "right", "effective",
    "retention", "ci_low", "ci_high", "holds",
)  # fmt: skip
FIXED = ("none", BLIND)
Place = tuple[str, float]
"""method, keep"""
Row = dict[str, Any]


@checked
def answers_of(
    half: str, images: Sequence[ImageFile], records: Iterable[dict[str, Any]]
) -> dict[Place, tuple[Answers, list[dict[str, Any]]]]:
    """For each method and budget which answers on a half of the images are right, and the
    records, in their order.

    Right is the line's own answer, or else the dense model's.

    Raises:
        ValueError: the dense model is never right.
    """
    given: dict[Place, dict[tuple[str, int], dict[str, Any]]] = {}
    for record in records:
        given.setdefault((record["method"], record["keep"]), {})[
            record["id"], record["question"]
        ] = record
    dense = given["none", 1.0]

    def right(own: dict[tuple[str, int], dict[str, Any]], image: ImageFile, i: int) -> bool:
        key = image.id, i
        return _same(own[key]["answer"], image.questions[i].answer or dense[key]["answer"])

    found = {
        place: [
            [(right(dense, p, i), right(own, p, i)) for i in range(len(p.questions))]
            for p in images
        ]
        for place, own in given.items()
    }
    if not any(stands for image in found["none", 1.0] for stands, _ in image):
        raise ValueError(
            f"the dense model gives none of the {len(dense)} answers that the lines of the {half} half call right: "
            "check how they are written, or leave them out and its own answers count"
        )
    return {place: (found[place], [*own.values()]) for place, own in given.items()}


@checked
def effects_in(answers: Mapping[Place, tuple[Answers, Any]]) -> Effects:
    """The design effects of a half's questions, from all methods and budgets."""
    return effects_of(own for (name, _), (own, _) in answers.items() if name not in FIXED)


@checked
def rows_of(
    half: str,
    answers: Mapping[Place, tuple[Answers, list[dict[str, Any]]]],
    effects: Effects,
    min_retention: float,
) -> list[Row]:
    """One row for each method and budget.

    kept_tokens and visual_tokens are means; images, n and right: of the half, the questions, and
    those answered rightly; effective, retention and its interval: see `retention`; holds: the lower
    end of the interval is `min_retention` at least.
    """
    return [
        _row(half, place, own, records, found, min_retention)
        for place, (own, records) in answers.items()
        if (found := retention(own, effects))
    ]


@checked
def choose(rows: Sequence[Row]) -> Row | None:
    """The row of the choosing half with the smallest budget that holds, as all larger ones of its
    method do.

    Of several methods the one that retains most; where they are level, too, the first. None:
    nothing holds.
    """
    own = [row for row in rows if is_candidate(row)]
    last = [
        held[-1]
        for name in dict.fromkeys(row["method"] for row in own)
        if (
            held := [
                *takewhile(
                    _holds,
                    sorted((r for r in own if r["method"] == name), key=lambda r: -r["keep"]),
                )
            ]
        )
    ]
    return min(last, key=lambda row: (row["keep"], -row["retention"]), default=None)


@checked
def verdict(rows: Sequence[Row], questions: int, min_retention: float) -> str:
    """What came out, in a sentence or two.

    Args:
        rows: of a tuning; those of the reporting half, if there are any, last.
        questions: in both halves.
        min_retention: what was asked for.
    """
    wanted, last = f"{100 * min_retention:.4g} % of the dense model's right answers", rows[-1]
    if last["half"] == REPORTING:
        name = f"{last['method']} at keep={last['keep']:.4g}"
        measured = f"{_interval(last)} on the half that had no say in the choice"
        if last["retention"] >= min_retention:
            return f"{name} holds {wanted}: {measured}."
        return f"{name} was chosen for {wanted}, but retains {measured}: not confirmed. Add lines on other images."
    best = max(
        (row for row in rows if is_candidate(row)), key=lambda row: (row["retention"], -row["keep"])
    )
    found = f"{best['method']} at keep={best['keep']:.4g}, retains {_interval(best)}"
    share = min(best["retention"], 1.0)
    if best["effective"] < (least := needed(min_retention)):
        return (
            f"Too few lines to show {wanted}: those of the half that chooses count as {best['effective']:.0f}, and it "
            f"takes {least} even if no answer differs. Add about {_more(least, best, questions)} more, best on other "
            f"images. The best so far, {found}."
        )
    if share > min_retention:
        more = _more(needed(min_retention, share), best, questions)
        return (
            f"Nothing is shown to hold {wanted}. The best, {found}: if that is the truth, about {more} more lines "
            "would show it."
        )
    return (
        f"Nothing holds {wanted} at these budgets. The best, {found}: pass larger budgets, other methods or a smaller "
        "retention."
    )


def _more(count: int, row: Row, questions: int) -> int:
    """Lines to add so that those of each half count as `count`, if the new ones are like these."""
    return max(1, math.ceil(2 * count * row["n"] / row["effective"]) - questions)


def _row(
    half: str,
    place: Place,
    own: Answers,
    records: list[dict[str, Any]],
    found: Retention,
    min_retention: float,
) -> Row:
    tokens = [
        fmean(record[kind] for record in records) for kind in ("kept_tokens", "visual_tokens")
    ]
    right = sum(pruned for image in own for _, pruned in image)
    values = (
        half, *place, *tokens, len(own), len(records), right, found.effective, found.value, found.low, found.high,
        found.low >= min_retention,
    )  # fmt: skip
    return {
        k: round(v, 6) if isinstance(v, float) else v for k, v in zip(COLUMNS, values, strict=True)
    }


def _same(answer: str, truth: str) -> bool:
    return answer.strip().casefold() == truth.strip().casefold()


@checked
def is_candidate(row: Row) -> bool:
    """Something to choose from."""
    return row["half"] == CHOOSING and row["method"] not in FIXED


def _holds(row: Row) -> bool:
    return row["holds"]


def _interval(row: Row) -> str:
    retained, low, high = (100 * row[name] for name in ("retention", "ci_low", "ci_high"))
    return f"{retained:.1f} % ({low:.1f} to {high:.1f})"
