"""Questions whose boxes are known: the drawn suites, and a user's own images."""

import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from adafv.data.sample import Box, Question, Sample
from adafv.data.scenes import SPLITS
from adafv.data.suites import load_suite, suite_length
from adafv.models.images import open_image
from adafv.utils.checks import checked

__all__ = ["SUITE_QUESTIONS", "Source", "from_boxes", "from_suite"]

SUITE_QUESTIONS = 200
"""Questions of a suite where no limit is given."""

_EXAMPLE = '{"image": "a.png", "question": "what is on the table?", "boxes": [[10, 20, 60, 80]]}'

_FIELDS = (
    ("image", str, "a path"),
    ("question", str, "text"),
    ("boxes", list, "a list of boxes"),
)


@dataclass(frozen=True)
class Source:
    """Images with questions.

    Attributes:
        name: of where they come from.
        samples: the images; they can be gone through once.
        questions: how many they make.
    """

    name: str
    samples: Iterable[Sample]
    questions: int


def from_suite(name: str, limit: int, seed: int = 0, split: str = "test") -> Source:
    """Return `limit` questions of a suite in `adafv.data.suites.SUITES`.

    Raises:
        ValueError: an unknown name or split, a limit below 1, or a negative seed.
    """
    if split not in SPLITS:
        raise ValueError(f"split={split!r} is unknown: pass one of {', '.join(SPLITS)}")
    return Source(name, load_suite(name, limit, seed, split), suite_length(name, limit))


@checked
def from_boxes(path: str | Path, limit: int | None = None) -> Source:
    """Return a user's own questions, with the boxes of what must be looked at to answer them.

    Every line is checked, and every image opened, before this returns; images are opened again
    when their turn comes, so that a long list needs no more memory than a short one. Lines about
    the same image belong together.

    Args:
        path: a JSONL file; each line is an object with "image" (a path; a relative one is looked
            for beside the file), "question" and "boxes": a list of [left, top, right, bottom] in
            pixels of the image as a viewer shows it. Other keys are ignored; a question without
            boxes is read and not measured.
        limit: lines to read; None: all.

    Raises:
        ValueError: the file cannot be read or holds no line; or, with the number of the line: no
            JSON object, a key that is missing or of the wrong type, an image that cannot be
            opened, or a box that isn't one or lies outside the image.
    """
    path = Path(path)
    if limit is not None and limit < 1:
        raise ValueError(f"limit={limit} asks for no question; use 1 or more, or None for all")
    asked: dict[Path, list[Question]] = {}
    sizes: dict[Path, tuple[int, int]] = {}
    total = 0
    for number, line in enumerate(_lines(path), 1):
        if not line.strip() or total == limit:
            continue
        try:
            name, question, boxes = _fields(line)
            image = path.parent / name
            # opened once, for its size; sizes are small, images are not
            if image not in sizes:
                sizes[image] = open_image(image).size
            found = tuple(_box(box, sizes[image]) for box in boxes)
        except ValueError as error:
            raise ValueError(f"line {number} of {path}: {error}") from None
        # lines on the same image share one pass of the tower
        asked.setdefault(image, []).append(Question(question, "", "", found))
        total += 1
    # blank lines alone
    if not total:
        raise ValueError(f"{path} is empty: give it one line for each question, such as {_EXAMPLE}")
    return Source(path.name, _samples(asked), total)


def _lines(path: Path) -> list[str]:
    """Read the lines of a text file."""
    try:
        # other separators of lines may stand in a question
        return path.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError:
        raise ValueError(
            f"{path} is not UTF-8 text: pass a JSONL file with lines such as {_EXAMPLE}"
        ) from None
    except OSError as error:
        raise ValueError(
            f"{path} cannot be read ({error.strerror}): check the path of the boxes file"
        ) from None


def _fields(line: str) -> tuple[str, str, list[Any]]:
    """Return image, question and boxes of a line, of the right types."""
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"no JSON ({error}), write it as {_EXAMPLE}") from None
    # "1" and "[]" are JSON, too
    if not isinstance(entry, dict):
        raise ValueError(f"no JSON object, write it as {_EXAMPLE}")
    for key, kind, what in _FIELDS:
        if not isinstance(entry.get(key), kind):
            raise ValueError(
                f"{key}={entry.get(key)!r} is not {what}, write the line as {_EXAMPLE}"
            )
    if not entry["question"].strip():
        raise ValueError("the question is empty: ask something about the image")
    return entry["image"], entry["question"], entry["boxes"]


def _box(box: Any, size: tuple[int, int]) -> Box:
    """Return a box that has an area, inside an image of `size` (width, height)."""
    if not (isinstance(box, list) and len(box) == 4 and all(_is_number(x) for x in box)):
        raise ValueError(
            f"box {box!r} is not four numbers: give [left, top, right, bottom] in pixels"
        )
    # a box is half open: it holds its left and top edges
    left, top, right, bottom = box
    if not (left < right and top < bottom):
        raise ValueError(
            f"box {box} has no area: "
            "give [left, top, right, bottom] with left < right and top < bottom"
        )
    if left < 0 or top < 0 or right > size[0] or bottom > size[1]:
        raise ValueError(
            f"box {box} leaves the image, which is {size[0]}×{size[1]} pixels: "
            "give pixels of the file"
        )
    return cast(Box, tuple(box))


def _is_number(value: Any) -> bool:
    # JSON's true is an int in Python, and its NaN a float
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return math.isfinite(value)


def _samples(asked: dict[Path, list[Question]]) -> Iterator[Sample]:
    # opened when their turn comes
    for image, questions in asked.items():
        yield Sample(str(image), open_image(image), tuple(questions), ())
