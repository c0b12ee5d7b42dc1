"""From answers to a choice: a row for each method and budget, and which of them holds."""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

from adafv.data.sample import BLIND
from adafv.evaluation.own import ImageFile
from adafv.tuning.retention import Answers, Effects, effects_of, needed, retention
from adafv.utils.checks import checked
from adafv.utils.records import columns_of, row_of

__all__ = [
    "CHOOSING",
    "COLUMNS",
    "REPORTING",
    "HalfRow",
    "Row",
    "answers_of",
    "choose",
    "effects_in",
    "is_candidate",
    "rows_of",
    "verdict",
]

CHOOSING = "choosing"
REPORTING = "reporting"
FIXED = ("none", BLIND)
"""What takes part without being a candidate."""

Name = tuple[str, float]
"""method, keep"""
Records = list[dict[str, Any]]
Found = Mapping[Name, tuple[Answers, Records]]
"""For each method and budget which answers are right, and the records."""
Row = dict[str, Any]
"""A `HalfRow` as files have it."""


@dataclass(frozen=True)
class HalfRow:
    """A row of `adafv tune`: a method at a budget, on a half of the images.

    Attributes:
        half: `CHOOSING` or `REPORTING`.
        kept_tokens, visual_tokens: means.
        images, n, right: of the half, the questions, and those answered rightly.
        effective, retention, ci_low, ci_high: see `adafv.tuning.retention.retention`.
        holds: the lower end of the interval is the wanted retention at least.
    """

    # what was asked of which method
    half: str
    method: str
    keep: float
    kept_tokens: float
    visual_tokens: float
    images: int
    n: int
    right: int
    # how much of the dense model is left
    effective: float
    retention: float
    ci_low: float
    ci_high: float
    holds: bool


COLUMNS = columns_of(HalfRow)


@checked
def answers_of(
    half: str, images: Sequence[ImageFile], records: Iterable[dict[str, Any]]
) -> dict[Name, tuple[Answers, Records]]:
    """Return, for each method and budget, which answers on a half of the images are right.

    The records come with them, in their order. Right is the line's own answer, or else the dense
    model's.

    Raises:
        ValueError: the dense model is never right.
    """
    # the answers by method and budget, image and question
    given: dict[Name, dict[tuple[str, int], dict[str, Any]]] = {}
    for record in records:
        answers = given.setdefault((record["method"], record["keep"]), {})
        answers[record["id"], record["question"]] = record

    # the truth: of the line, or what the dense model says
    dense = given["none", 1.0]
    truths = {}
    by_image = defaultdict(list)
    for image in images:
        for index, question in enumerate(image.questions):
            key = (image.key, index)
            # copies of a file are one image
            by_image[image.checksum].append(key)
            truths[key] = question
            if not question.answer:
                truths[key] = replace(question, answer=dense[key]["answer"])
    dense_right = {key: truth.accepts(dense[key]["answer"]) for key, truth in truths.items()}
    if not any(dense_right.values()):
        raise ValueError(
            f"the dense model gives none of the {len(dense)} answers that the lines of the {half} "
            "half call right: check how they are written, or leave them out and its own answers "
            "count"
        )

    # side by side, image by image: is the dense model right, and is this one
    found: dict[Name, tuple[Answers, Records]] = {}
    for name, own in given.items():
        answered = []
        for keys in by_image.values():
            pairs = []
            for key in keys:
                pairs.append((dense_right[key], truths[key].accepts(own[key]["answer"])))
            answered.append(pairs)
        found[name] = answered, list(own.values())
    return found


@checked
def effects_in(answers: Found) -> Effects:
    """Return the design effects of a half's questions, from all methods and budgets."""
    # dense never differs from itself, and blind says nothing of pruning
    pruned = []
    for (name, _), (own, _) in answers.items():
        if name not in FIXED:
            pruned.append(own)
    return effects_of(pruned)


@checked
def rows_of(half: str, answers: Found, effects: Effects, min_retention: float) -> list[Row]:
    """Return a `HalfRow` for each method and budget."""
    rows = []
    for (method, keep), (own, records) in answers.items():
        # None cannot be: the dense model is right somewhere, see `answers_of`
        found = retention(own, effects)
        if found is None:
            continue
        row = HalfRow(
            half=half,
            method=method,
            keep=keep,
            kept_tokens=fmean(record["kept_tokens"] for record in records),
            visual_tokens=fmean(record["visual_tokens"] for record in records),
            images=len(own),
            n=len(records),
            right=_right(own),
            effective=found.effective,
            retention=found.value,
            ci_low=found.low,
            ci_high=found.high,
            holds=found.low >= min_retention,
        )
        rows.append(row_of(row))
    return rows


def _right(answers: Answers) -> int:
    """Count the right answers of the pruned model."""
    count = 0
    for image in answers:
        count += sum(pruned for _, pruned in image)
    return count


@checked
def choose(rows: Sequence[Row]) -> Row | None:
    """Return the row of the choosing half with the smallest budget that holds.

    All larger ones of its method must hold, too. Of several methods the one that retains most;
    where they are level, too, the first. None: nothing holds.
    """
    by_method: dict[str, list[Row]] = {}
    for row in rows:
        if is_candidate(row):
            by_method.setdefault(row["method"], []).append(row)

    # of each method: down the budgets, up to the first that does not hold
    smallest = []
    for own in by_method.values():
        held = None
        for row in sorted(own, key=lambda row: -row["keep"]):
            if not row["holds"]:
                break
            held = row
        if held is not None:
            smallest.append(held)

    # the smallest budget of all, then the highest retention
    return min(smallest, key=lambda row: (row["keep"], -row["retention"]), default=None)


@checked
def verdict(rows: Sequence[Row], questions: int, min_retention: float) -> str:
    """Return what came out, in a sentence or two.

    Args:
        rows: of a tuning; those of the reporting half, if there are any, last.
        questions: in both halves.
        min_retention: what was asked for.
    """
    wanted = f"{100 * min_retention:.4g} % of the dense model's right answers"
    if rows[-1]["half"] == REPORTING:
        return _confirmed(rows[-1], wanted, min_retention)

    # nothing was chosen: say why by the best that there is
    candidates = filter(is_candidate, rows)
    best = max(candidates, key=lambda row: (row["retention"], -row["keep"]))
    found = f"{best['method']} at keep={best['keep']:.4g}, retains {_interval(best)}"

    # too few lines, even if nothing were lost
    least = needed(min_retention)
    if best["effective"] < least:
        return (
            f"Too few lines to show {wanted}: those of the half that chooses count as "
            f"{best['effective']:.0f}, and it takes {least} even if no answer differs. Add about "
            f"{_more(least, best, questions)} more, best on other images. The best so far, {found}."
        )

    # it holds, and a larger budget of the same method doesn't
    if best["holds"]:
        return (
            f"Nothing is chosen for {wanted}: {found}, while a larger budget of it doesn't hold, "
            "so that it may be luck. Add lines on other images."
        )

    # enough for a model that loses nothing, too few for this one
    share = min(best["retention"], 1.0)
    if share > min_retention:
        more = _more(needed(min_retention, share), best, questions)
        return (
            f"Nothing is shown to hold {wanted}. The best, {found}: if that is the truth, about "
            f"{more} more lines would show it."
        )
    return (
        f"Nothing holds {wanted} at these budgets. The best, {found}: pass larger budgets, other "
        "methods or a smaller retention."
    )


def _confirmed(last: Row, wanted: str, min_retention: float) -> str:
    """Return what the other half says of the choice."""
    # the estimate counts here: with the interval's end most good choices would fail by chance
    name = f"{last['method']} at keep={last['keep']:.4g}"
    measured = f"{_interval(last)} on the half that had no say in the choice"
    if last["retention"] >= min_retention:
        found = f"{name} holds {wanted}: {measured}."
        # with options or without
        if last["method"].partition(":")[0] == "resize":
            found += " No method goes lower: shrink the images instead, which saves the tower, too."
        return found
    return (
        f"{name} was chosen for {wanted}, but retains {measured}: not confirmed. "
        "Add lines on other images."
    )


def _more(count: int, row: Row, questions: int) -> int:
    """Return how many lines to add so that those of each half count as `count`.

    The new ones are taken to be like these.
    """
    # both halves grow by as much
    lines = math.ceil(2 * count * row["n"] / row["effective"])
    return max(1, lines - questions)


@checked
def is_candidate(row: Row) -> bool:
    """Tell if a row is one to choose from."""
    return row["half"] == CHOOSING and row["method"] not in FIXED


def _interval(row: Row) -> str:
    retained = 100 * row["retention"]
    low = 100 * row["ci_low"]
    high = 100 * row["ci_high"]
    return f"{retained:.1f} % ({low:.1f}–{high:.1f})"
