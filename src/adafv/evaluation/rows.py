"""Sum up answers in rows: a method at a budget, on the questions of one type of a suite."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import numpy as np

from adafv.evaluation.beyond_resize import BEYOND_RESIZE, beyond_resize, question_of
from adafv.evaluation.copies import first_copies
from adafv.utils.checks import checked
from adafv.utils.records import columns_of, row_of
from adafv.utils.stats import wilson

__all__ = ["COLUMNS", "INTERVAL", "NEW", "REQUIRED", "Row", "mean", "rows_of"]

INTERVAL = "95 %, Wilson, with n divided by the design effect of several questions on one image"


@dataclass(frozen=True)
class Row:
    """A row of `adafv eval`: a method at a budget, on the questions of one type of a suite.

    Attributes:
        kept_tokens, visual_tokens: means.
        question_type: "all" is all of them.
        n: how many questions.
        ci_low, ci_high: see `INTERVAL`.
        retention: accuracy over that of the dense model; None where that is 0.
        seconds: a sum.
        evidence_kept: the share of the tokens in a question's boxes that stay, mean over questions;
            None where there are no boxes, or kept tokens are no longer patches of their own.
    """

    # what was asked of which method
    method: str
    keep: float
    kept_tokens: float
    visual_tokens: float
    suite: str
    question_type: str
    n: int
    # how well it did
    accuracy: float
    ci_low: float
    ci_high: float
    retention: float | None
    seconds: float
    evidence_kept: float | None


COLUMNS = columns_of(Row)
NEW = ("evidence_kept",)
"""Columns that results of earlier versions lack."""
REQUIRED = tuple(name for name in COLUMNS if name not in NEW)


@checked
def rows_of(records: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return a `Row` per suite, method, keep and type of question ("all" first).

    They come in the order of the records.
    """
    # the answers of each configuration, by type of question
    groups: dict[tuple[str, str, float], dict[str, list[dict[str, Any]]]] = {}
    for record in records:
        configuration = (record["suite"], record["method"], record["keep"])
        types = groups.setdefault(configuration, {"all": []})
        types["all"].append(record)
        types.setdefault(str(record["type"]), []).append(record)

    # what is lost by a smaller image, and by nothing else
    fine = beyond_resize(groups)
    for (_, _, keep), types in groups.items():
        answers = [answer for answer in types["all"] if question_of(answer, keep) in fine]
        if answers:
            types[BEYOND_RESIZE] = answers

    # the dense model's accuracy, which retention is relative to
    dense = {}
    for (suite, name, _), types in groups.items():
        if name == "none":
            for kind, answers in types.items():
                dense[suite, kind] = mean(answers, "correct")
        # by definition
        dense[suite, BEYOND_RESIZE] = 1.0

    rows = []
    for (suite, name, keep), types in groups.items():
        for kind, answers in types.items():
            row = _row(suite, name, keep, kind, answers, dense.get((suite, kind)))
            rows.append(row_of(row))
    return rows


def _evidence(answers: Iterable[dict[str, Any]]) -> float | None:
    """Return the mean evidence of the answers that have it."""
    shares = []
    for answer in answers:
        # answers of earlier versions have none
        if answer.get("evidence_kept") is not None:
            shares.append(answer["evidence_kept"])
    return sum(shares) / len(shares) if shares else None


def _row(
    suite: str,
    name: str,
    keep: float,
    kind: str,
    answers: list[dict[str, Any]],
    dense: float | None,
) -> Row:
    accuracy = mean(answers, "correct")
    # answers on one image go right or wrong together
    images = defaultdict(list)
    first = first_copies(map(itemgetter("id"), answers))
    for answer in answers:
        images[first[answer["id"]]].append(answer["correct"])
    low, high = wilson(list(images.values()))
    return Row(
        method=name,
        keep=keep,
        kept_tokens=mean(answers, "kept_tokens"),
        visual_tokens=mean(answers, "visual_tokens"),
        suite=suite,
        question_type=kind,
        n=len(answers),
        accuracy=accuracy,
        ci_low=low,
        ci_high=high,
        retention=accuracy / dense if dense else None,
        seconds=sum(map(itemgetter("seconds"), answers)),
        evidence_kept=_evidence(answers),
    )


@checked
def mean(answers: list[dict[str, Any]], name: str) -> float:
    """Return the mean of a number that every answer has."""
    return float(np.mean(list(map(itemgetter(name), answers))))
