"""The log of a measurement: a line for each thing measured, and the settings that all share."""

from pathlib import Path
from typing import Any

from adafv.utils.checks import checked
from adafv.utils.records import RunLog

__all__ = ["Log"]


@checked
class Log(RunLog):
    """`cells.jsonl` in a folder, with `settings.json` beside it. Opening it resumes an earlier run.

    Attributes:
        records: all lines, those of earlier runs first.

    Raises:
        ValueError: see `RunLog`.
    """

    def __init__(self, folder: str | Path, settings: dict[str, Any]) -> None:
        super().__init__(Path(folder) / "cells.jsonl", settings)
        self.records = self.lines

    def add(self, kind: str, **record: Any) -> None:
        """Put a line on the disk."""
        line = {"kind": kind, **record}
        self.append([line])
        # only what is safe on the disk counts as measured
        self.records.append(line)

    def of(self, kind: str) -> list[dict[str, Any]]:
        """Return the lines of a kind."""
        return [record for record in self.records if record["kind"] == kind]
