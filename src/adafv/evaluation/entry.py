"""An entry of the leaderboard: results of an evaluation that others can repeat."""

import json
import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from adafv.data import suites
from adafv.evaluation.own import is_own
from adafv.evaluation.rows import COLUMNS, REQUIRED
from adafv.utils.checks import checked
from adafv.utils.files import expanded, writable_folder
from adafv.utils.records import write_json

__all__ = [
    "ENTRY",
    "check_entry",
    "check_meta",
    "check_repeatable",
    "check_rows",
    "read_entry",
    "write_entry",
]

ENTRY = "entry.json"
"""The file of an entry's folder."""
META = (
    "versions",
    "command",
    "model",
    "device",
    "dtype",
    "machine",
    "seed",
    "split",
    "batch_size",
    "max_new_tokens",
    "started",
)
"""What an entry says of how its rows were made."""
VERSIONS = ("adafv", "python", "torch", "transformers")


@checked
def check_repeatable(model: str | None, asked: Iterable[str], split: str) -> None:
    """Raise a `ValueError` if others cannot repeat an evaluation, before it begins.

    Args:
        model: as the command line takes it; None: the embedded one.
        asked: suites, as `adafv.evaluation.evaluate.Evaluation` takes them.
        split: of the suites.
    """
    if model is not None and expanded(model).exists():
        raise ValueError(
            f"model={model!r} is a folder of this machine, which others cannot load: leave --entry "
            "out, or pass the model's id"
        )
    for suite in asked:
        if is_own(suite):
            raise ValueError(
                f"suite {suite!r} is your own, which others cannot ask: leave --entry out, or pass "
                "suites by name"
            )
    if split != "test":
        raise ValueError(
            f"split={split!r} is what choices are made on: leave --entry out, or pass --split test"
        )


@checked
def write_entry(
    folder: str | Path, meta: dict[str, Any], rows: list[dict[str, Any]], machine: dict[str, Any]
) -> Path:
    """Write an entry; return its file.

    Args:
        folder: is made where it is missing.
        meta: of `adafv.evaluation.report.meta_of`.
        rows: of `adafv.evaluation.rows.rows_of`.
        machine: of `adafv.utils.machine.machine_of`.

    Raises:
        ValueError: the folder cannot be written; see also `check_entry`.
    """
    entry = {"meta": meta | {"machine": machine}, "rows": rows}
    check_entry(entry)
    path = Path(folder) / ENTRY
    writable_folder(path.parent)
    write_json(path, entry)
    return path


@checked
def read_entry(path: str | Path) -> dict[str, Any]:
    """Return meta and rows of an entry.

    Raises:
        ValueError: the file is no entry; see `check_entry`.
    """
    try:
        entry: dict[str, Any] = json.loads(Path(path).read_text(encoding="utf-8"))
        check_entry(entry)
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}): pass {ENTRY}") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not an entry of the leaderboard: {error}") from None
    return entry


@checked
def check_entry(entry: dict[str, Any]) -> None:
    """Raise a `ValueError` unless an entry is complete and its numbers are possible.

    It has to say how it was made, with a command of `adafv eval` and without a path of one machine
    in it; each row has every column, the number of questions that it rests on, and dense rows of
    the same suite beside it.
    """
    check_meta(entry.get("meta", {}))
    rows = entry.get("rows", [])
    if not rows:
        raise ValueError("rows is empty: write it with `adafv eval --entry`")
    check_rows(rows)
    dense = {row["suite"] for row in rows if row["method"] == "none"}
    for row in rows:
        if row["suite"] not in dense:
            raise ValueError(f"{_name(row)} has no dense row beside it: run it again")


@checked
def check_rows(rows: Iterable[dict[str, Any]]) -> None:
    """Raise a `ValueError` unless rows of an entry are whole, possible and of public suites."""
    for row in rows:
        _check_row(row)
        if row["suite"] not in suites.SUITES:
            raise ValueError(
                f"{_name(row)} is of own questions, which others cannot ask: write the entry from "
                "a folder without them"
            )


@checked
def check_meta(meta: dict[str, Any]) -> None:
    """Raise a `ValueError` unless an entry says how it was made; see `check_entry`."""
    versions = meta.get("versions", {})
    lacking = [name for name in META if meta.get(name) in (None, "", {})]
    lacking += [name for name in VERSIONS if name not in versions]
    if lacking:
        raise ValueError(f"{', '.join(lacking)} is missing: write it with `adafv eval --entry`")

    # commands of earlier runs in the folder made rows, too
    for run in (meta, *meta.get("earlier", [])):
        _check_command(run["command"])


def _check_command(command: str) -> None:
    """Raise a `ValueError` unless a command is one of `adafv eval` that runs on any machine."""
    words = shlex.split(command)
    if words[:2] != ["adafv", "eval"]:
        raise ValueError(f"command={command!r} is not one of `adafv eval`: run it again")
    for word in words:
        if Path(word.rpartition("=")[2]).is_absolute():
            raise ValueError(
                f"command={command!r} names {word}, a path of one machine: "
                "run it with relative paths"
            )


def _check_row(row: dict[str, Any]) -> None:
    """Raise a `ValueError` unless a row is whole and its numbers are possible."""
    lacking = [name for name in COLUMNS if name not in row]
    lacking += [name for name in REQUIRED if name != "retention" and row.get(name) is None]
    if lacking:
        raise ValueError(f"{_name(row)} lacks {lacking[0]}: write it with `adafv eval --entry`")
    if row["n"] < 1 or row["n"] != int(row["n"]):
        raise ValueError(f"{_name(row)} rests on n={row['n']} questions: run it again")
    if not 0 <= row["ci_low"] <= row["accuracy"] <= row["ci_high"] <= 1:
        raise ValueError(
            f"{_name(row)} has an accuracy of {row['accuracy']} outside of its interval, "
            f"{row['ci_low']} to {row['ci_high']}: run it again"
        )
    if not 0 <= row["kept_tokens"] <= row["visual_tokens"]:
        raise ValueError(
            f"{_name(row)} keeps {row['kept_tokens']} of {row['visual_tokens']} tokens: "
            "run it again"
        )


def _name(row: dict[str, Any]) -> str:
    """Name a row in a sentence."""
    names = [str(row.get(name)) for name in ("method", "keep", "suite", "question_type")]
    return f"the row {' '.join(names)}"
