"""What an evaluation found: rows, files, a table and an image."""

import csv
import io
import json
import platform
import shlex
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.table import Table

from adafv import __version__
from adafv.evaluation.paired import SIGNIFICANT
from adafv.utils.checks import checked
from adafv.utils.files import atomic, write_text
from adafv.utils.stats import wilson

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = [
    "COLUMNS",
    "INTERVAL",
    "LEGEND",
    "NARROW",
    "as_csv",
    "meta_of",
    "read",
    "rows_of",
    "table",
    "write",
]

COLUMNS = (
    "method", "keep", "kept_tokens", "visual_tokens", "suite", "question_type", "n",
    "accuracy", "ci_low", "ci_high", "retention", "seconds",
)  # fmt: skip
LEGEND = "▲ better, ▼ worse than adafv by more than luck (p < 0.05, paired; the differences are in pairs.csv)"
INTERVAL = "95 %, Wilson, with n divided by the design effect of several questions on one image"
INTERVAL_COLUMN, SHARE_COLUMN = "95 %", "of dense"
NARROW = (INTERVAL_COLUMN, SHARE_COLUMN, "tokens")
"""Columns of `table` that go first where there is no room for all."""


@checked
def rows_of(records: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row per suite, method, keep and type of question ("all" first), in the order of the
    records.

    kept_tokens and visual_tokens are means, seconds a sum; retention is accuracy over that of the
    dense model, None where that is 0.
    """
    groups: dict[tuple[str, str, float], dict[str, list[dict[str, Any]]]] = {}
    for record in records:
        types = groups.setdefault((record["suite"], record["method"], record["keep"]), {"all": []})
        types["all"].append(record)
        types.setdefault(str(record["type"]), []).append(record)
    dense = {
        (suite, kind): _mean(answers, "correct")
        for (suite, name, _), types in groups.items()
        if name == "none"
        for kind, answers in types.items()
    }
    return [
        _row(suite, name, keep, kind, answers, dense.get((suite, kind)))
        for (suite, name, keep), types in groups.items()
        for kind, answers in types.items()
    ]


def _row(
    suite: str,
    name: str,
    keep: float,
    kind: str,
    answers: list[dict[str, Any]],
    dense: float | None,
) -> dict[str, Any]:
    accuracy = _mean(answers, "correct")
    images = defaultdict(list)
    for answer in answers:
        images[answer["id"]].append(answer["correct"])
    low, high = wilson(list(images.values()))
    values = (
        name, keep, _mean(answers, "kept_tokens"), _mean(answers, "visual_tokens"), suite, kind, len(answers),
        accuracy, low, high, accuracy / dense if dense else None, sum(a["seconds"] for a in answers),
    )  # fmt: skip
    return {
        column: round(value, 6) if isinstance(value, float) else value
        for column, value in zip(COLUMNS, values, strict=True)
    }


def _mean(answers: list[dict[str, Any]], name: str) -> float:
    return float(np.mean([answer[name] for answer in answers]))


@checked
def meta_of(
    model: "PreTrainedModel", name: str, start: datetime, **settings: Any
) -> dict[str, Any]:
    """What made the rows: versions, command line, model, settings, and the time since `start`
    (UTC).
    """
    import torch  # here, so that a table of results is printed without
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
    """What `write` wrote: meta, rows and pairs.

    Raises:
        ValueError: the file is missing or not of an evaluation.
    """
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
        rows = {
            "meta": found["meta"],
            "rows": [{name: row[name] for name in COLUMNS} for row in found["rows"]],
        }
    except OSError as error:
        raise ValueError(
            f"{path} cannot be read ({error.strerror}): pass results.json of `adafv eval`"
        ) from error
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{path} is not results.json of `adafv eval`: pass one that is") from None
    return rows | {"pairs": found.get("pairs", [])}


@checked
def write(
    out: str | Path,
    meta: dict[str, Any],
    rows: list[dict[str, Any]],
    pairs: Sequence[dict[str, Any]] = (),
) -> None:
    """Write results.json, results.csv, pairs.csv and accuracy.png, each whole or not at all.

    Raises:
        ValueError: the folder cannot be written.
    """
    from adafv.evaluation.plot import draw  # matplotlib takes a second to import

    out = Path(out)
    whole = {"meta": meta, "rows": rows, "pairs": pairs}
    write_text(out / "results.json", json.dumps(whole, indent=1, ensure_ascii=False) + "\n")
    write_text(out / "results.csv", as_csv(COLUMNS, rows))
    if pairs:
        write_text(out / "pairs.csv", as_csv(pairs[0], pairs))
    with atomic(out / "accuracy.png") as temporary:
        draw(rows, temporary)


@checked
def as_csv(columns: Iterable[str], rows: Iterable[dict[str, Any]]) -> str:
    """The rows as the text of a CSV file with a header."""
    sheet = io.StringIO()
    writer = csv.DictWriter(sheet, list(columns), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return sheet.getvalue()


@checked
def table(
    rows: list[dict[str, Any]], pairs: Iterable[dict[str, Any]] = (), against: str = "adafv"
) -> Table:
    """Accuracy on all questions of each suite, its interval, and the share of the dense model's.

    Of `pairs`, those of the method `against` mark what is better (▲) or worse (▼) than it beyond
    luck.
    """
    marks = {
        (pair["keep"], pair["rival"], pair["suite"]): "▼" if pair["difference"] > 0 else "▲"
        for pair in pairs
        if pair["method"] == against and pair["p"] < SIGNIFICANT
    }
    rows = [row for row in rows if row["question_type"] == "all"]
    suites = list(dict.fromkeys(row["suite"] for row in rows))
    lines: dict[tuple[float, str], dict[str, dict[str, Any]]] = {
        (r["keep"], r["method"]): {} for r in rows
    }
    for row in rows:
        lines[row["keep"], row["method"]][row["suite"]] = row
    result = Table(
        title="Right answers in %, 95 % interval, and share of the dense model's",
        title_justify="left",
    )
    result.add_column("kept", justify="right", no_wrap=True)
    result.add_column("tokens", justify="right", no_wrap=True)
    result.add_column("method", no_wrap=True)
    for suite in suites:
        for name in (suite, INTERVAL_COLUMN, SHARE_COLUMN):
            result.add_column(name, justify="right", no_wrap=True)
    budget = None
    for (keep, name), cells in sorted(lines.items(), key=lambda line: -line[0][0]):
        if budget not in (None, keep):
            result.add_section()
        budget = keep
        tokens = np.mean([cell["kept_tokens"] for cell in cells.values()])
        line = [f"{keep:.4g}", f"{tokens:.0f}", {"none": "dense"}.get(name, name)]
        for suite in suites:
            line += _cells(cells.get(suite), marks.get((keep, name, suite), ""))
        result.add_row(*line)
    return result


def _cells(row: dict[str, Any] | None, mark: str) -> list[str]:
    """Accuracy, its interval, and its share of the dense model's."""
    if row is None:
        return ["–", "", ""]
    share = "–" if row["retention"] is None else f"{100 * row['retention']:.0f} %"
    return [
        f"{100 * row['accuracy']:.1f}{mark}",
        f"{100 * row['ci_low']:.1f}–{100 * row['ci_high']:.1f}",
        share,
    ]
