"""The log of a measurement: one line for each thing measured, and the settings that all of them
share.
"""

import json
from pathlib import Path
from typing import Any

from adafv.utils.checks import checked
from adafv.utils.files import Lines, differences, writable_folder, write_text

__all__ = ["Log"]


@checked
class Log(Lines):
    """`cells.jsonl` in a folder, with `settings.json` beside it. Opening it takes up an earlier
    run.

    Attributes:
        records: all lines, those of earlier runs first.

    Raises:
        ValueError: the folder cannot be written, holds a run with other settings, is in use, or has
            a damaged line.
    """

    def __init__(self, folder: str | Path, settings: dict[str, Any]) -> None:
        folder = writable_folder(folder)
        beside = folder / "settings.json"
        settings = json.loads(json.dumps(settings))
        super().__init__(folder / "cells.jsonl", "another --out")
        try:
            self.records = [json.loads(line) for line in self.before]
            before = (
                json.loads(beside.read_text(encoding="utf-8"))
                if self.records or beside.exists()
                else settings
            )
            was = differences(before, settings)
        except (OSError, ValueError, AttributeError):
            self.close()
            raise ValueError(
                f"{folder} holds a damaged cells.jsonl or settings.json: pass another --out"
            ) from None
        if was:
            self.close()
            raise ValueError(
                f"{folder} holds a run with {was}: pass another --out, or the same settings"
            )
        write_text(beside, json.dumps(settings, indent=1) + "\n")
        self.trim()

    def add(self, kind: str, **record: Any) -> None:
        """Put a line on the disk."""
        line = {"kind": kind, **record}
        self.append([line])
        self.records.append(line)

    def of(self, kind: str) -> list[dict[str, Any]]:
        """The lines of a kind."""
        return [record for record in self.records if record["kind"] == kind]
