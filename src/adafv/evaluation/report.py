"""Write and read the results of an evaluation: files, a table and an image."""

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from adafv.evaluation.paired import SIGNIFICANT
from adafv.evaluation.rows import COLUMNS, INTERVAL, NEW, REQUIRED, mean
from adafv.utils.checks import checked
from adafv.utils.files import atomic, write_text
from adafv.utils.records import as_csv, command_of, distinct, where, write_json

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = [
    "FILES",
    "NARROW",
    "TableByBudget",
    "legend",
    "meta_of",
    "of_type",
    "read",
    "reference",
    "table",
    "write",
]

PICTURES = ("accuracy.png", "accuracy.pdf")
FILES = ("results.json", "results.csv", "pairs.csv", *PICTURES)
INTERVAL_COLUMN = "95 %"
SHARE_COLUMN = "of dense"
NARROW = (INTERVAL_COLUMN, SHARE_COLUMN, "tokens")
"""Columns of `table` that go first where there is no room for all."""


@checked
def meta_of(
    model: "PreTrainedModel", name: str, start: datetime, **settings: Any
) -> dict[str, Any]:
    """Return what made the rows: versions, command, model, settings, time since `start` (UTC)."""
    # here, so that a table of results is printed without PyTorch
    from adafv.utils.machine import versions

    return {
        "versions": versions(),
        "command": command_of("adafv"),
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
        inside = Path(path) / "results.json"
        wanted = inside if inside.is_file() else "results.json of `adafv eval`"
        raise ValueError(f"{path} cannot be read ({error.strerror}): pass {wanted}") from error
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ValueError(f"{path} is not results.json of `adafv eval`: pass one that is") from None
    if not rows:
        raise ValueError(f"{path} has no rows: run `adafv eval` with this --out again")
    return {"meta": meta, "rows": rows, "pairs": found.get("pairs", [])}


@checked
def write(
    out: str | Path,
    meta: dict[str, Any],
    rows: list[dict[str, Any]],
    pairs: Sequence[dict[str, Any]] = (),
) -> None:
    """Write results.json, results.csv, pairs.csv, accuracy.png and .pdf, each whole or not at all.

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
    else:
        (out / "pairs.csv").unlink(missing_ok=True)
    for name in PICTURES:
        with atomic(out / name) as temporary:
            draw(rows, temporary)


@checked
def of_type(rows: list[dict[str, Any]], question_type: str) -> list[dict[str, Any]]:
    """Return the rows of a type of question.

    Raises:
        ValueError: no question is of this type.
    """
    types = distinct(rows, "question_type")
    if question_type not in types:
        raise ValueError(
            f"type {question_type!r} is not in these results: pass one of {', '.join(types)}"
        )
    return where(rows, question_type=question_type)


@checked
def reference(meta: dict[str, Any], pairs: list[dict[str, Any]]) -> str | None:
    """Return the method that the marks of a table compare with; None: there are no pairs."""
    methods = distinct(pairs, "method")
    # results of earlier versions don't say it
    wanted = [name for name in meta.get("against", []) if name in methods]
    return next(iter([*wanted, *methods]), None)


@checked
def legend(against: str) -> str:
    """Return what the marks of a table say of a method."""
    return (
        f"▲ better, ▼ worse than {against} by more than luck "
        f"(p < {SIGNIFICANT}, paired; the differences are in pairs.csv)"
    )


@checked
def table(
    rows: list[dict[str, Any]],
    pairs: Iterable[dict[str, Any]] = (),
    against: str | None = "adafv",
    question_type: str = "all",
) -> Table:
    """Return a table of accuracies on the questions of a type of each suite.

    Each comes with its interval, and its share of the dense model's. Of `pairs`, those of the
    method `against` mark what is better (▲) or worse (▼) than it beyond luck.

    Raises:
        ValueError: no question is of this type.
    """
    # differences are of all questions
    pairs = pairs if question_type == "all" else ()
    rows = of_type(rows, question_type)
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
    if len(suites) > 1:
        title += "; tokens: mean over suites"
    result = TableByBudget(title, columns)
    for keep, name in order:
        # suites' images differ in size
        own = lines[keep, name]
        tokens = mean(list(own.values()), "kept_tokens")
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


def _marks(
    pairs: Iterable[dict[str, Any]], against: str | None
) -> dict[tuple[float, str, str], str]:
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
