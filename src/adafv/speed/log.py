"""The log of a measurement: one line for each thing measured, and the settings that all of them share."""

import json
from pathlib import Path
from typing import Any

from adafv.files import Lines, writable_folder, write_text

__all__ = ["Log"]


class Log:
    """`cells.jsonl` in a folder, with `settings.json` beside it. Opening it takes up an earlier run.

    Attributes:
        records: all lines, those of earlier runs first.

    Raises:
        ValueError: the folder cannot be written, holds a run with other settings, is in use, or has a damaged line.
    """

    def __init__(self, folder: str | Path, settings: dict[str, Any]) -> None:
        folder = writable_folder(folder)
        path = folder / "settings.json"
        settings = json.loads(json.dumps(settings))
        self._lines = Lines(folder / "cells.jsonl", "another --out")
        try:
            self.records: list[dict[str, Any]] = [json.loads(line) for line in self._lines.before]
            before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
        except ValueError:
            self._lines.close()
            raise ValueError(f"{folder} holds a damaged cells.jsonl or settings.json: pass another --out") from None
        if self.records and before != settings:
            self._lines.close()
            names = [n for n in {**settings, **(before or {})} if settings.get(n) != (before or {}).get(n)]
            was = ", ".join(f"{n}={(before or {}).get(n)!r} (now {settings.get(n)!r})" for n in names)
            raise ValueError(f"{folder} holds a run with {was}: pass another --out, or the same settings")
        write_text(path, json.dumps(settings, indent=1) + "\n")
        self._lines.trim()

    def __enter__(self) -> "Log":
        return self

    def __exit__(self, *exception: object) -> None:
        self._lines.close()

    def add(self, kind: str, **record: Any) -> None:
        """Put a line on the disk."""
        line = {"kind": kind, **record}
        self._lines.append([line])
        self.records.append(line)

    def of(self, kind: str) -> list[dict[str, Any]]:
        """The lines of a kind."""
        return [record for record in self.records if record["kind"] == kind]
