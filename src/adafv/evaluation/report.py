"""Results of an evaluation: rows, files, a table and an image."""

import json
import platform
import shlex
import sys
from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.table import Table

from adafv import __version__
from adafv.evaluation.paired import SIGNIFICANT
from adafv.utils.checks import checked
from adafv.utils.files import atomic, write_text
from adafv.utils.records import as_csv, columns_of, distinct, row_of, where, write_json
from adafv.utils.stats import wilson

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = [
    "COLUMNS",
    "INTERVAL",
    "LEGEND",
    "NARROW",
    "Row",
    "TableByBudget",
    "meta_of",
    "read",
    "rows_of",
    "table",
    "write",
]

RESIZE = "resize"  # the method; its class would import PyTorch
BEYOND_RESIZE = "beyond resize"
"""The type of questions that all tokens answer, and an image shrunk to the same budget does not."""
LEGEND = (
    "▲ better, ▼ worse than adafv by more than luck "
    "(p < 0.05, paired; the differences are in pairs.csv)"
)
INTERVAL = "95 %, Wilson, with n divided by the design effect of several questions on one image"
INTERVAL_COLUMN = "95 %"
SHARE_COLUMN = "of dense"
NARROW = (INTERVAL_COLUMN, SHARE_COLUMN, "tokens")
"""Columns of `table` that go first where there is no room for all."""


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
        answers = [answer for answer in types["all"] if _question_of(answer, keep) in fine]
        if answers:
            types[BEYOND_RESIZE] = answers

    # the dense model's accuracy, which retention is relative to
    dense = {}
    for (suite, name, _), types in groups.items():
        if name == "none":
            for kind, answers in types.items():
                dense[suite, kind] = _mean(answers, "correct")
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


@checked
def beyond_resize(
    groups: Mapping[tuple[str, str, float], Mapping[str, Iterable[dict[str, Any]]]],
) -> set[Hashable]:
    """Return the questions that all tokens answer and an image shrunk to the same budget does not.

    On the others nobody needs a method (VTC-Bench, arXiv 2510.07143).

    Returns:
        Suite, image, question and budget of each.
    """
    right = set()
    for (_, name, keep), types in groups.items():
        if name == "none" and keep == 1:
            for answer in types["all"]:
                if answer["correct"]:
                    right.add(_question_of(answer))

    found: set[Hashable] = set()
    for (_, name, keep), types in groups.items():
        if name == RESIZE:
            for answer in types["all"]:
                if not answer["correct"] and _question_of(answer) in right:
                    found.add(_question_of(answer, keep))
    return found


def _question_of(answer: Mapping[str, Any], *more: float) -> tuple[Hashable, ...]:
    return (answer["suite"], answer["id"], answer["question"], *more)


def _row(
    suite: str,
    name: str,
    keep: float,
    kind: str,
    answers: list[dict[str, Any]],
    dense: float | None,
) -> Row:
    accuracy = _mean(answers, "correct")
    # answers on one image go right or wrong together
    images = defaultdict(list)
    for answer in answers:
        images[answer["id"]].append(answer["correct"])
    low, high = wilson(list(images.values()))
    return Row(
        method=name,
        keep=keep,
        kept_tokens=_mean(answers, "kept_tokens"),
        visual_tokens=_mean(answers, "visual_tokens"),
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


def _mean(answers: list[dict[str, Any]], name: str) -> float:
    return float(np.mean(list(map(itemgetter(name), answers))))


@checked
def meta_of(
    model: "PreTrainedModel", name: str, start: datetime, **settings: Any
) -> dict[str, Any]:
    """Return what made the rows: versions, command, model, settings, time since `start` (UTC)."""
    # here, so that a table of results is printed without them
    import torch
    import transformers

    return {
        "versions": {
            "adafv": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
        "command": shlex.join(["adafv", *sys.argv[1:]]),
        "model": name,
        "device": str(model.device),
        "dtype": str(model.dtype).removeprefix("torch."),
        **settings,
        "interval": INTERVAL,
        "started": start.isoformat(timespec="seconds"),
        "wall_seconds": round((datetime.now(UTC) - start).total_seconds(), 3),
    }


def read(path: str | Path) -> dict[str, Any]:
    """Return what `write` wrote: meta, rows and pairs.

    Raises:
        ValueError: the file is missing or not of an evaluation.
    """
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
        meta = found["meta"]
        # a row that lacks a column is of another command
        rows = []
        for row in found["rows"]:
            required = {name: row[name] for name in REQUIRED}
            rows.append(required | {name: row.get(name) for name in NEW})
    except OSError as error:
        raise ValueError(
            f"{path} cannot be read ({error.strerror}): pass results.json of `adafv eval`"
        ) from error
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{path} is not results.json of `adafv eval`: pass one that is") from None
    return {"meta": meta, "rows": rows, "pairs": found.get("pairs", [])}


@checked
def write(
    out: str | Path,
    meta: dict[str, Any],
    rows: list[dict[str, Any]],
    pairs: Sequence[dict[str, Any]] = (),
) -> None:
    """Write results.json, results.csv, pairs.csv and accuracy.png, each complete or not at all.

    Raises:
        ValueError: the folder cannot be written.
    """
    from adafv.evaluation.plot import draw  # matplotlib takes a second to import

    out = Path(out)
    # the rows first: an image that fails to draw takes nothing with it
    write_json(out / "results.json", {"meta": meta, "rows": rows, "pairs": pairs})
    write_text(out / "results.csv", as_csv(COLUMNS, rows))
    if pairs:
        write_text(out / "pairs.csv", as_csv(pairs[0], pairs))
    with atomic(out / "accuracy.png") as temporary:
        draw(rows, temporary)


@checked
def table(
    rows: list[dict[str, Any]],
    pairs: Iterable[dict[str, Any]] = (),
    against: str = "adafv",
    question_type: str = "all",
) -> Table:
    """Return a table of accuracies on the questions of a type of each suite.

    Each comes with its interval, and its share of the dense model's. Of `pairs`, those of the
    method `against` mark what is better (▲) or worse (▼) than it beyond luck.

    Raises:
        ValueError: no question is of this type.
    """
    types = distinct(rows, "question_type")
    if question_type not in types:
        raise ValueError(
            f"type {question_type!r} is not in these results: pass one of {', '.join(types)}"
        )
    # differences are of all questions
    pairs = pairs if question_type == "all" else ()
    rows = where(rows, question_type=question_type)
    suites = distinct(rows, "suite")
    marks = _marks(pairs, against)

    # a line for each configuration, the largest budget first
    lines: dict[tuple[float, str], dict[str, dict[str, Any]]] = defaultdict(dict)
    for row in rows:
        lines[row["keep"], row["method"]][row["suite"]] = row
    order = sorted(lines, key=lambda line: -line[0])

    columns: list[str] = []
    for suite in suites:
        columns += (suite, INTERVAL_COLUMN, SHARE_COLUMN)
    title = "Right answers in %, 95 % interval, and share of the dense model's"
    result = TableByBudget(title, columns)
    for keep, name in order:
        # tokens: the mean over suites, whose images differ in size
        own = lines[keep, name]
        tokens = _mean(list(own.values()), "kept_tokens")
        texts: list[str] = []
        for suite in suites:
            texts += _texts(own.get(suite), marks.get((keep, name, suite), ""))
        result.add(keep, tokens, "dense" if name == "none" else name, texts)
    return result.table


@checked
class TableByBudget:
    """A table of methods with a rule between budgets.

    Args:
        columns: names of those behind the budget, its tokens and the method.
    """

    def __init__(self, title: str, columns: Iterable[str]) -> None:
        self.table = Table(title=title, title_justify="left")
        self.table.add_column("kept", justify="right", no_wrap=True)
        self.table.add_column("tokens", justify="right", no_wrap=True)
        self.table.add_column("method", no_wrap=True)
        for column in columns:
            self.table.add_column(column, justify="right", no_wrap=True)
        self._keep: float | None = None

    def add(self, keep: float, tokens: float, method: str, texts: Iterable[str]) -> None:
        """Add a line; lines of one budget follow one another."""
        if self._keep not in (None, keep):
            self.table.add_section()
        self._keep = keep
        self.table.add_row(f"{keep:.4g}", f"{tokens:.0f}", method, *texts)


def _marks(pairs: Iterable[dict[str, Any]], against: str) -> dict[tuple[float, str, str], str]:
    """Return the marks of what differs beyond luck from one method, by keep, rival and suite."""
    marks = {}
    for pair in pairs:
        if pair["method"] == against and pair["p"] < SIGNIFICANT:
            # the difference is the method's lead over the rival, which is what is marked
            mark = "▼" if pair["difference"] > 0 else "▲"
            marks[pair["keep"], pair["rival"], pair["suite"]] = mark
    return marks


def _texts(row: dict[str, Any] | None, mark: str) -> list[str]:
    """Return accuracy, its interval, and its share of the dense model's."""
    # a suite that the method was not measured on
    if row is None:
        return ["–", "", ""]
    share = "–" if row["retention"] is None else f"{100 * row['retention']:.0f} %"
    return [
        f"{100 * row['accuracy']:.1f}{mark}",
        f"{100 * row['ci_low']:.1f}–{100 * row['ci_high']:.1f}",
        share,
    ]
