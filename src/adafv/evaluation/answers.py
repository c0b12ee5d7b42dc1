"""The log of an evaluation: one line per answer, never lost, never twice."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from adafv.utils.checks import checked
from adafv.utils.files import Lines, differences, writable_folder, write_text

__all__ = ["AnswerLog", "Key"]

Key = tuple[str, str, int, str, float]
"""suite, sample id, question index, method, keep"""


@checked
class AnswerLog(Lines):
    """`answers.jsonl` in a folder, with the `settings.json` that the answers were given under.

    Opening it takes up an earlier run with the same settings: answers that are there need not be
    given again, and a last line that a kill has torn is cut off. Only one process may hold a
    folder.

    Args:
        folder: made where it is missing.
        settings: JSON-able; what must be the same for answers to belong together.

    Raises:
        ValueError: the folder cannot be written, holds a run with other settings, is in use, or has
            a damaged line.
    """

    def __init__(self, folder: str | Path, settings: dict[str, Any]) -> None:
        path = writable_folder(folder) / "answers.jsonl"
        _check(path, json.loads(json.dumps(settings)))
        super().__init__(path, "another --out")
        self.trim()
        self.records: dict[Key, dict[str, Any]] = {}
        for number, line in enumerate(self.before, 1):
            try:
                record = json.loads(line)
                self.records[key_of(record)] = record
            except (ValueError, KeyError, TypeError):
                raise ValueError(
                    f"{self.path} is damaged in line {number}: delete that line, or pass another --out"
                ) from None

    def __contains__(self, key: Key) -> bool:
        return key in self.records

    def append(self, records: Iterable[dict[str, Any]]) -> None:
        """Add answers that are not there yet and put them on the disk.

        Raises:
            ValueError: the disk is full; what was there before stays whole.
        """
        new = {key_of(record): record for record in records if key_of(record) not in self.records}
        super().append(new.values())
        self.records |= new


def _check(path: Path, settings: dict[str, Any]) -> None:
    beside = path.with_name("settings.json")
    if not beside.exists():
        if path.exists() and path.stat().st_size:
            raise ValueError(
                f"{path} has answers but no settings.json beside it: pass another --out"
            )
        write_text(beside, json.dumps(settings, indent=1) + "\n")
        return
    try:
        before = json.loads(beside.read_text(encoding="utf-8"))
    except ValueError:
        raise ValueError(f"{beside} is damaged: pass another --out") from None
    if was := differences(before, settings):
        raise ValueError(
            f"{path.parent} holds a run with {was}: pass another --out, or the same settings"
        )


def key_of(record: dict[str, Any]) -> Key:
    """What an answer is an answer to."""
    return record["suite"], record["id"], record["question"], record["method"], record["keep"]
