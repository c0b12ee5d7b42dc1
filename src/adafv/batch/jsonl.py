"""Read questions from a JSONL file, and write their results to another: all, once, in order."""

import contextlib
import hashlib
import json
import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import UnionType
from typing import Any

from adafv.utils.checks import checked, did_you_mean
from adafv.utils.files import Lines, differences, write_text

__all__ = ["Line", "Results", "UnfinishedLineWarning", "checksum", "read_lines"]

# What a line may have; "answer" is the truth, and what stands behind it says more of it: they are
# for `adafv tune` and `adafv eval`.
KEYS = (
    *("id", "image", "video", "frames", "question", "keep", "tokens", "method"),
    *("answer", "type", "boxes", "frame_grid"),
)

_EXAMPLE = '{"image": "a.png", "question": "what is on the table?"}'


class UnfinishedLineWarning(UserWarning):
    """The last line of a file is still being written, and is left out."""


@dataclass(frozen=True)
class Line:
    """One line of the input.

    Attributes:
        number: from 1.
        id: its own, or its number; None where it cannot be read and another line has its number for
            an id.
        image: path of the image, or an address; empty where the line has a video.
        video: path of the video; empty where the line has an image.
        frames: of the video, where the line says how many.
        question: as written.
        keep, tokens: the budget, where the line has one of its own.
        method: the method, where the line has one of its own.
        answer, type, boxes, frame_grid: the truth, the group and the regions of the question, and
            rows and columns of frames on the image, as far as the line has them, unchecked; only
            `adafv tune` and `adafv eval` look at them.
        error: why it cannot be answered; image and question are then empty.
    """

    number: int
    id: str | int | float | None
    image: str = ""
    question: str = ""
    video: str = ""
    frames: int | None = None
    keep: float | None = None
    tokens: int | None = None
    method: str | None = None
    answer: Any = None
    type: Any = None
    boxes: Any = None
    frame_grid: Any = None
    error: str | None = None


@checked
def read_lines(
    path: Path, strict: bool = False, growing: bool = False
) -> tuple[list[Line], list[bytes]]:
    """Read the lines of a file; what is wrong with a line is told in its `error`.

    Args:
        path: of the file.
        strict: a key that nobody knows is wrong, too.
        growing: a last line without an end that is no JSON is still being written, and is left out,
            with an `UnfinishedLineWarning`.

    Returns:
        The lines, and how each is written.

    Raises:
        ValueError: the file cannot be read, is empty, binary or an array, or two lines have the
            same id.
    """
    content = _content(path, growing)
    # blank lines at the end are none; those in between are errors of their own
    written = [line.rstrip() for line in content.rstrip().split(b"\n")]
    lines = [_line(raw, number, path.parent, strict) for number, raw in enumerate(written, 1)]

    # ids must be distinct: results are told apart by them
    first: dict[Any, int] = {}
    for line in lines:
        if line.id is None:
            continue
        earlier = first.setdefault(line.id, line.number)
        if earlier != line.number:
            raise ValueError(
                f"id {line.id!r} of line {line.number} of {path} is that of line {earlier} too: "
                "give each its own (a line without an id has its number)"
            )

    # a line that cannot be read has its number for an id, unless another line has that one
    named = []
    for line in lines:
        if line.id is None and line.number not in first:
            line = replace(line, id=line.number)
        named.append(line)
    return named, written


def _content(path: Path, growing: bool) -> bytes:
    """Return what a file of lines holds; of one that grows, without a line that is unfinished."""
    try:
        # as bytes: a line that is not UTF-8 fails alone
        content = path.read_bytes()
    except OSError as error:
        raise ValueError(
            f"{path} cannot be read ({error.strerror}): check the path of the questions"
        ) from None
    if content.lstrip().startswith(b"["):
        raise ValueError(f"{path} is one JSON array: write a line for each question, as {_EXAMPLE}")
    if b"\0" in content:
        raise ValueError(f"{path} is not text: write a line for each question, as {_EXAMPLE}")
    if growing and not _is_finished(content):
        content = _without_last_line(path, content)
    if not content.strip():
        raise ValueError(f"{path} is empty: give it one line for each question, such as {_EXAMPLE}")
    return content


def _without_last_line(path: Path, content: bytes) -> bytes:
    """Return what stands before a line that is still being written, and warn of that."""
    number = content.count(b"\n") + 1
    if number == 1:
        raise ValueError(
            f"line 1 of {path} is no JSON, or not written to its end: write it as {_EXAMPLE}"
        )
    warnings.warn(
        f"line {number} of {path} is still being written and left out: run the same command "
        "again once it is complete",
        UnfinishedLineWarning,
        stacklevel=5,  # whoever reads the lines
    )
    return content[: content.rfind(b"\n") + 1]


@checked
def checksum(lines: Iterable[bytes]) -> str:
    """Return what tells lines of a file from others."""
    return hashlib.sha256(b"\n".join(lines)).hexdigest()[:16]


def _is_finished(content: bytes) -> bool:
    """Return whether the last line of a file has an end, or is JSON without one."""
    last = content[content.rfind(b"\n") + 1 :].strip()
    if not last:
        return True
    try:
        json.loads(last)
    except (ValueError, RecursionError):
        return False
    return True


def _line(raw: bytes, number: int, folder: Path, strict: bool) -> Line:
    """Return a line of the input; what is wrong with it is told in its `error`."""
    own = None
    try:
        entry = _entry(raw, number)
        own = _id(entry, number)
        shown = _shown(entry)
        if strict:
            _check_keys(entry)
        _check_frames(entry.get("frames"), shown)
        _check_own_method(entry)
    except ValueError as error:
        return Line(number, own, error=str(error))

    # paths are relative to the file of questions; an address is refused when it is opened
    path: str = entry[shown]
    if "://" not in path and not path.startswith("data:"):
        path = str(folder / path)
    return Line(
        number,
        own,
        image=path if shown == "image" else "",
        question=entry["question"],
        video=path if shown == "video" else "",
        frames=entry.get("frames"),
        keep=entry.get("keep"),
        tokens=entry.get("tokens"),
        method=entry.get("method"),
        answer=entry.get("answer"),
        type=entry.get("type"),
        boxes=entry.get("boxes"),
        frame_grid=entry.get("frame_grid"),
    )


def _shown(entry: dict[str, Any]) -> str:
    """Return which key names what a line's question is about: "image" or "video".

    Raises:
        ValueError: the line has both, or lacks its path or its question.
    """
    # a null is a cell that a table leaves empty
    shown = "image" if entry.get("video") is None else "video"
    if shown == "video" and entry.get("image") is not None:
        raise ValueError("image and video are both in the line: give each a line of its own")
    for key, what in ((shown, "a path"), ("question", "text")):
        if not isinstance(entry.get(key), str):
            raise ValueError(
                f"{key}={entry.get(key)!r} is not {what}: write the line as {_EXAMPLE}"
            )
    return shown


def _check_frames(frames: Any, shown: str) -> None:
    """Raise a `ValueError` if a line's number of frames is not one, or is that of an image."""
    if frames is None:
        return
    if not _is_number(frames, int):
        raise ValueError(f"frames={frames!r} is not an integer: pass 1 or more, or leave it out")
    if shown == "image":
        raise ValueError(f"frames={frames} with an image, which is one: leave it out")


def _check_own_method(entry: dict[str, Any]) -> None:
    """Raise a `ValueError` if a line's own budget or method is of a wrong type."""
    keep = entry.get("keep")
    tokens = entry.get("tokens")
    method = entry.get("method")
    if keep is not None and not _is_number(keep, int | float):
        raise ValueError(f"keep={keep!r} is not a number: pass 0 < keep <= 1, or leave it out")
    if tokens is not None and not _is_number(tokens, int):
        raise ValueError(f"tokens={tokens!r} is not an integer: pass 1 or more, or leave it out")
    if method is not None and not isinstance(method, str):
        raise ValueError(
            f"method={method!r} is not text: pass the name of a method, or leave it out"
        )


def _is_number(value: Any, kind: type | UnionType) -> bool:
    """Return whether a value is a number of a kind; JSON's true is one to Python."""
    return isinstance(value, kind) and not isinstance(value, bool)


def _check_keys(entry: dict[str, Any]) -> None:
    """Raise a `ValueError` for a key that nobody knows, with the one that was meant."""
    for key in entry:
        if key not in KEYS:
            # a typing error would otherwise be ignored silently
            hint = did_you_mean(key, KEYS, f"a line has {', '.join(KEYS)}")
            raise ValueError(f"the key {key!r} is unknown: {hint}")


def _entry(raw: bytes, number: int) -> dict[str, Any]:
    """Return the JSON object of a line."""
    try:
        entry = json.loads(raw)
    except UnicodeDecodeError:
        raise ValueError(f"line {number} is not UTF-8 text: save the file as UTF-8") from None
    # brackets may be nested deeper than Python reads
    except (ValueError, RecursionError) as error:
        # JSON's own message counts lines, of which there is but one
        reason = str(error)
        if isinstance(error, json.JSONDecodeError):
            reason = f"{error.msg}, column {error.colno}"
        raise ValueError(f"line {number} is no JSON ({reason}): write it as {_EXAMPLE}") from None
    if not isinstance(entry, dict):
        raise ValueError(f"line {number} is no JSON object: write it as {_EXAMPLE}")
    return entry


def _id(entry: dict[str, Any], number: int) -> str | int | float:
    """Return a line's own id, or its number."""
    own = entry.get("id")
    if own is None:
        return number
    if isinstance(own, bool) or not isinstance(own, str | int | float):
        raise ValueError(
            f"the id of line {number} is neither text nor a number: pass one, or leave it out"
        )
    # Python reads NaN and Infinity, which are no JSON in the results
    if isinstance(own, float) and not math.isfinite(own):
        raise ValueError(
            f"the id of line {number} is {own}: pass a finite number or text, or leave it out"
        )
    return own


@checked
class Results(Lines):
    """A JSONL file of results, with the settings that made them in `….settings.json` beside it.

    Opening it takes up an earlier run of the same questions under the same settings: `records` are
    its results, and a last line that a kill has torn is cut off. Questions may have been added at
    the end since. Only one process may hold a file.

    Args:
        path: made where it is missing; its folder is there.
        settings: JSON-able; what must be the same for results to belong together.
        ids: of the questions, in order.
        lines: the questions as they are written, in order.

    Raises:
        ValueError: the file cannot be written, holds results of other questions or settings, is in
            use, or has a damaged line.
    """

    def __init__(
        self, path: Path, settings: dict[str, Any], ids: Sequence[Any], lines: Sequence[bytes]
    ) -> None:
        super().__init__(path, "another OUT")
        try:
            # through JSON and back, for comparison with what is read from a file
            self._check(json.loads(json.dumps(settings)), lines, bool(path.stat().st_size))
            # the earlier results, checked against the questions
            self.records = [self._record(line, i, ids) for i, line in enumerate(self.before)]
            self.trim()
        # an interruption must not leave the file locked
        except BaseException:
            self.close()
            raise

    def append(self, records: Iterable[dict[str, Any]]) -> None:
        """Add results and put them on the disk.

        Raises:
            ValueError: the disk is full; what was there before is kept.
        """
        new = list(records)
        super().append(new)
        self.records += new

    def replace(self, records: Mapping[int, dict[str, Any]]) -> None:
        """Replace results by others, by index; the file is the old one or the new one.

        Raises:
            ValueError: the disk is full; what was there before is kept.
        """
        if records:
            # new results in the positions of the old
            self.records = [records.get(i, record) for i, record in enumerate(self.records)]
            self.rewrite(self.records)

    def _check(self, settings: dict[str, Any], lines: Sequence[bytes], taken: bool) -> None:
        """Compare settings with those of an earlier run, if any, and write them."""
        path = self.path.with_name(f"{self.path.name}.settings.json")
        if taken:
            self._compare(path, settings, lines)
        # a checksum stands for the questions
        now = {"input": checksum(lines), "lines": len(lines), **settings}
        write_text(path, json.dumps(now, indent=1) + "\n")

    def _compare(self, path: Path, settings: dict[str, Any], lines: Sequence[bytes]) -> None:
        """Raise a `ValueError` if an earlier run had other settings or questions."""
        try:
            before = json.loads(path.read_text(encoding="utf-8"))
            # of the lines, those that there were then must be the same
            count = before.pop("lines")
            was = differences(before, {"input": checksum(lines[:count]), **settings})
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
            raise ValueError(
                f"{self.path} has content, but what made it cannot be read from {path.name} "
                "beside it: pass another OUT"
            ) from None
        if was:
            raise ValueError(
                f"{self.path} holds results with {was}: pass another OUT, or the same settings "
                "and the same lines; new ones may stand at the end"
            )

    def _record(self, line: bytes, index: int, ids: Sequence[Any]) -> dict[str, Any]:
        """Return an earlier result, which has to be that of the question at its index."""
        with contextlib.suppress(ValueError, KeyError, TypeError, IndexError, RecursionError):
            record = json.loads(line)
            if record["id"] == ids[index] and {"answer", "error"} <= record.keys():
                return record
        raise ValueError(
            f"line {index + 1} of {self.path} is not the result of line {index + 1} of the input: "
            "delete it and what follows it, or pass another OUT"
        )
