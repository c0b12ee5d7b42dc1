"""The log of an evaluation: one line per answer, never lost, never twice."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from adafv.utils.checks import checked
from adafv.utils.records import RunLog

__all__ = ["AnswerLog", "Key"]

Key = tuple[str, str, int, str, float]
"""suite, sample id, question index, method, keep"""


@checked
class AnswerLog(RunLog):
    """`answers.jsonl` in a folder, with the `settings.json` that the answers were given under.

    Opening it resumes an earlier run with the same settings: answers that are there need not be
    given again.

    Args:
        folder: made where it is missing.
        settings: JSON-able; what must be the same for answers to belong together.

    Attributes:
        records: the answers, by what they are answers to.

    Raises:
        ValueError: see `RunLog`.
    """

    def __init__(self, folder: str | Path, settings: dict[str, Any]) -> None:
        super().__init__(Path(folder) / "answers.jsonl", settings)
        self.records: dict[Key, dict[str, Any]] = {}
        for record in self.lines:
            self.records[key_of(record)] = record

    def __contains__(self, key: Key) -> bool:
        return key in self.records

    def parse(self, line: bytes) -> dict[str, Any]:
        """Return the answer that a line holds; an error says that the line is damaged."""
        record = super().parse(line)
        hash(key_of(record))  # a list in place of a name is damage, too
        return record

    def append(self, records: Iterable[dict[str, Any]]) -> None:
        """Add answers that are not there yet and put them on the disk.

        Raises:
            ValueError: the disk is full; what was there before is kept.
        """
        new: dict[Key, dict[str, Any]] = {}
        for record in records:
            key = key_of(record)
            if key not in self.records:
                new[key] = record

        # only what is safe on the disk counts as answered
        super().append(new.values())
        self.records |= new


def key_of(record: dict[str, Any]) -> Key:
    """Return what an answer is an answer to."""
    return record["suite"], record["id"], record["question"], record["method"], record["keep"]
