"""Records of runs: rows as result files have them, and logs that an interrupted run resumes."""

import csv
import io
import json
import shlex
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Any

from adafv.utils.checks import checked
from adafv.utils.files import Lines, differences, writable_folder, write_text

__all__ = [
    "Rows",
    "RunLog",
    "as_csv",
    "columns_of",
    "command_of",
    "distinct",
    "row_of",
    "where",
    "write_json",
    "write_report",
    "write_table",
]

Rows = list[dict[str, Any]]
"""Of a table of results."""


@checked
def columns_of(kind: type) -> tuple[str, ...]:
    """Return the columns of a table: the fields of the dataclass that its rows are."""
    return tuple(field.name for field in fields(kind))


@checked
def row_of(entry: Any, digits: int = 6) -> dict[str, Any]:
    """Return a dataclass as a row of a result file, its floats rounded.

    Args:
        entry: an instance; the order of its fields is that of the columns.
        digits: after the point.

    Raises:
        ValueError: entry is no instance of a dataclass.
    """
    if not is_dataclass(entry) or isinstance(entry, type):
        raise ValueError(f"entry is of type {type(entry).__name__}: pass a row, a dataclass")
    # digits beyond these are noise, and make files differ from run to run
    row: dict[str, Any] = {}
    for name, value in asdict(entry).items():
        row[name] = round(value, digits) if isinstance(value, float) else value
    return row


@checked
def where(rows: Rows, **values: Any) -> Rows:
    """Return the rows that have these values, by column."""
    found = []
    for row in rows:
        if all(row[name] == value for name, value in values.items()):
            found.append(row)
    return found


@checked
def distinct(rows: Rows, column: str) -> list[Any]:
    """Return the values of a column, in the order in which they first come."""
    return list(dict.fromkeys(row[column] for row in rows))


@checked
def as_csv(columns: Iterable[str], rows: Iterable[dict[str, Any]]) -> str:
    """Return rows as the text of a CSV file with a header."""
    # in memory, so that the file is written complete or not at all
    text = io.StringIO()
    writer = csv.DictWriter(text, list(columns), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


@checked
def write_json(path: str | Path, content: dict[str, Any] | list[Any]) -> None:
    """Write a file of results as JSON, complete or not at all.

    Raises:
        ValueError: the file cannot be written.
    """
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


@checked
def write_table(folder: Path, meta: dict[str, Any], entries: Sequence[Any]) -> None:
    """Write results.json, with what made the rows, and results.csv into a folder.

    Args:
        meta: what all rows have in common.
        entries: instances of one dataclass, at least one.
    """
    rows = [row_of(entry) for entry in entries]
    write_json(folder / "results.json", {"meta": meta, "rows": rows})
    write_text(folder / "results.csv", as_csv(columns_of(type(entries[0])), rows))


@checked
def write_report(folder: Path, meta: dict[str, Any], entries: Sequence[Any], page: str) -> None:
    """Write a table as `write_table` does, a page about it as README.md, and print the page.

    Args:
        page: Markdown.
    """
    write_table(folder, meta, entries)
    write_text(folder / "README.md", page)
    print(page)


@checked
def command_of(
    *program: str, arguments: Sequence[str] | None = None, threads: int | None = None
) -> str:
    """Return a command line as a shell reads it.

    Args:
        program: its first words.
        arguments: the others; None, or none: those that this process was started with.
        threads: with which it is to be run again. None: with any number.
    """
    line = shlex.join([*program, *(arguments or sys.argv[1:])])
    return line if threads is None else f"OMP_NUM_THREADS={threads} {line}"


@checked
class RunLog(Lines):
    """A JSONL file that a run fills, with the `settings.json` that it was filled under beside it.

    Opening it resumes an earlier run with the same settings: its lines are there, and a last one
    that a kill has torn is cut off. Only one process may hold a folder.

    Args:
        path: of the log; its folder is made where it is missing.
        settings: JSON-able; what must be the same for lines to belong together.

    Attributes:
        lines: all that were there, parsed.

    Raises:
        ValueError: the folder cannot be written, holds a run with other settings, is in use, or has
            a damaged line.
    """

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        writable_folder(path.parent)
        super().__init__(path, "another --out")
        try:
            # JSON has no tuples and only text as keys: compare what a file can hold
            self._check(json.loads(json.dumps(settings)))
            self.lines = self._parsed()
            self.trim()
        # an interruption must not leave the file locked
        except BaseException:
            self.close()
            raise

    def _check(self, settings: dict[str, Any]) -> None:
        """Compare the settings with those of an earlier run, or write them down for later ones."""
        beside = self.path.with_name("settings.json")
        # lines of unknown origin must not mix with new ones
        if self.path.stat().st_size and not beside.exists():
            raise ValueError(
                f"{self.path} has records but no settings.json beside it: pass another --out"
            )
        # without a complete line there is nothing that other settings made
        if not self.before:
            write_text(beside, json.dumps(settings, indent=1) + "\n")
            return

        try:
            was = differences(json.loads(beside.read_text(encoding="utf-8")), settings)
        except (OSError, ValueError, TypeError, AttributeError, RecursionError):
            raise ValueError(f"{beside} is damaged: pass another --out") from None
        if was:
            raise ValueError(
                f"{self.path.parent} holds a run with {was}: "
                "pass another --out, or the same settings"
            )

    def _parsed(self) -> list[dict[str, Any]]:
        records = []
        for number, line in enumerate(self.before, 1):
            try:
                records.append(self.parse(line))
            except (ValueError, KeyError, TypeError, RecursionError):
                raise ValueError(
                    f"{self.path} is damaged in line {number}: "
                    "delete that line, or pass another --out"
                ) from None
        return records

    def parse(self, line: bytes) -> dict[str, Any]:
        """Return the record that a line holds; an error says that the line is damaged."""
        return json.loads(line)
