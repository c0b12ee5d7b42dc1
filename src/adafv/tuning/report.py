"""What a tuning found: files and a table."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from adafv.evaluation.report import as_csv
from adafv.tuning.pick import CHOOSING, COLUMNS, REPORTING, Row
from adafv.utils.checks import checked
from adafv.utils.files import atomic, write_text

__all__ = ["FILES", "LEGEND", "NARROW", "read", "table", "write"]

HALVES = (CHOOSING, REPORTING)
FILES = ("results.json", "results.csv", "tune.png")
NARROW = ("tokens",)
"""Columns of `table` that go first where there is no room for all."""
LEGEND = "✓ holds: the lower end of the 95 % interval is what was asked for at least"


@checked
def write(out: str | Path, whole: dict[str, Any]) -> None:
    """Write results.json, results.csv and tune.png, each whole or not at all.

    Args:
        whole: meta, rows, chosen and verdict.

    Raises:
        ValueError: the folder cannot be written.
    """
    from adafv.tuning.plot import draw  # matplotlib takes a second to import

    out = Path(out)
    write_text(out / "results.json", json.dumps(whole, indent=1, ensure_ascii=False) + "\n")
    write_text(out / "results.csv", as_csv(COLUMNS, whole["rows"]))
    with atomic(out / "tune.png") as temporary:
        draw(whole["rows"], whole["meta"]["min_retention"], temporary)


def read(path: str | Path) -> dict[str, Any] | None:
    """What `write` wrote to results.json; None: it is that of something else, or damaged."""
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
        rows = [{name: row[name] for name in COLUMNS} for row in found["rows"]]
        return {
            "meta": found["meta"],
            "rows": rows,
            "chosen": found["chosen"],
            "verdict": found["verdict"],
        }
    except (OSError, ValueError, KeyError, TypeError):
        return None


@checked
def table(rows: Sequence[Row]) -> Table:
    """Retention and its interval by budget and method; of the other half only what was chosen, if
    anything was.
    """
    cells: dict[tuple[float, str], dict[str, Row]] = {}
    for row in rows:
        if row["method"] != "none":
            cells.setdefault((row["keep"], row["method"]), {})[row["half"]] = row
    result = Table(
        title="Right answers, % of the dense model's, and 95 % interval", title_justify="left"
    )
    for name in ("kept", "tokens"):
        result.add_column(name, justify="right", no_wrap=True)
    result.add_column("method", no_wrap=True)
    for half in HALVES:
        count = next((f" ({row['n']} questions)" for row in rows if row["half"] == half), "")
        result.add_column(f"{half} half{count}", justify="right")
    budget = None
    for (keep, name), own in sorted(cells.items(), key=lambda cell: -cell[0][0]):
        if budget not in (None, keep):
            result.add_section()
        budget = keep
        tokens = f"{own[CHOOSING]['kept_tokens']:.0f}"
        result.add_row(f"{keep:.4g}", tokens, name, *(_cell(own.get(half)) for half in HALVES))
    return result


def _cell(row: Row | None) -> str:
    if row is None:
        return "–"
    retained, low, high = (100 * row[name] for name in ("retention", "ci_low", "ci_high"))
    return f"{retained:.1f} ({low:.1f} to {high:.1f}) {'✓' if row['holds'] else ' '}"
