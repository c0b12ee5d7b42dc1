"""What a tuning found: files and a table."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from adafv.evaluation.report import TableByBudget
from adafv.tuning.pick import CHOOSING, COLUMNS, REPORTING, Row
from adafv.utils.checks import checked
from adafv.utils.files import atomic, write_text
from adafv.utils.records import as_csv, write_json

__all__ = ["FILES", "NARROW", "legends", "read", "table", "write"]

HALVES = (CHOOSING, REPORTING)
PICTURES = ("tune.png", "tune.pdf")
FILES = ("results.json", "results.csv", *PICTURES)
NARROW = ("tokens",)
"""Columns of `table` that go first where there is no room for all."""
HOLDS = "✓"


@checked
def write(out: str | Path, content: dict[str, Any]) -> None:
    """Write results.json, results.csv, tune.png and tune.pdf, each complete or not at all.

    Args:
        content: meta, rows, chosen and verdict.

    Raises:
        ValueError: the folder cannot be written.
    """
    from adafv.tuning.plot import draw  # matplotlib takes a second to import

    out = Path(out)
    # the rows first: an image that fails to draw takes nothing with it
    write_json(out / "results.json", content)
    write_text(out / "results.csv", as_csv(COLUMNS, content["rows"]))
    for name in PICTURES:
        with atomic(out / name) as temporary:
            draw(content["rows"], content["meta"]["min_retention"], temporary)


def read(path: str | Path) -> dict[str, Any] | None:
    """Return what `write` wrote to results.json; None: it is of another command, or damaged."""
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
        # a row that lacks a column is of another command
        rows = []
        for row in found["rows"]:
            rows.append({name: row[name] for name in COLUMNS})
        # `adafv eval` writes neither of the last two
        return {
            "meta": found["meta"],
            "rows": rows,
            "chosen": found["chosen"],
            "verdict": found["verdict"],
        }
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


@checked
def table(rows: Sequence[Row]) -> Table:
    """Return a table of retention and its interval by budget and method.

    Of the reporting half it has only what was chosen, if anything was.
    """
    # a line for each configuration, the largest budget first
    lines: dict[tuple[float, str], dict[str, Row]] = {}
    counts: dict[str, int] = {}
    for row in rows:
        counts.setdefault(row["half"], row["n"])
        if row["method"] != "none":
            lines.setdefault((row["keep"], row["method"]), {})[row["half"]] = row
    order = sorted(lines, key=lambda line: -line[0])

    columns = []
    for half in HALVES:
        count = f" ({counts[half]} questions)" if half in counts else ""
        columns.append(f"{half} half{count}")
    result = TableByBudget("Right answers, % of the dense model's, and 95 % interval", columns)
    for keep, name in order:
        own = lines[keep, name]
        texts = [_text(own.get(half)) for half in HALVES]
        result.add(keep, own[CHOOSING]["kept_tokens"], name, texts)
    return result.table


@checked
def legends(rows: Sequence[Row]) -> list[str]:
    """Return what the marks of `table` say, if it has some."""
    # the dense model, which holds in any case, has no line
    marked = any(row["holds"] for row in rows if row["method"] != "none")
    if not marked:
        return []
    return [f"{HOLDS} holds: the lower end of the 95 % interval is at least what was asked for"]


def _text(row: Row | None) -> str:
    if row is None:
        return "–"
    retained = 100 * row["retention"]
    low = 100 * row["ci_low"]
    high = 100 * row["ci_high"]
    # a space keeps the column straight
    mark = HOLDS if row["holds"] else " "
    return f"{retained:.1f} ({low:.1f}–{high:.1f}) {mark}"
