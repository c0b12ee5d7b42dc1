"""A user's own questions on own images, from a JSONL file."""

import math
import os
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, cast

from adafv.batch.jsonl import Line, read_lines
from adafv.data import suites
from adafv.data.sample import Box, Question, Sample
from adafv.evaluation.beyond_resize import BEYOND_RESIZE
from adafv.models.images import open_image
from adafv.utils.checks import checked, did_you_mean, has_surrogate

__all__ = [
    "ImageFile",
    "check_suite",
    "file_of",
    "is_own",
    "name_of",
    "own_images",
    "own_samples",
    "read_images",
]

ENDING = ".jsonl"
RESERVED = ("all", BEYOND_RESIZE)
_REGIONS = "left, top, right and bottom of each in pixels, e.g. [[10, 20, 60, 80]]"
FILE = "questions.jsonl"
"""The file of a folder that is a suite."""


@dataclass(frozen=True)
class ImageFile:
    """An image file with what is asked about it.

    Attributes:
        id: its path from the folder of the questions.
        path: of the file.
        questions: in the order of the lines, none twice; an empty answer: the dense model's is the
            truth.
        lines: their numbers.
        frames: rows and columns of a contact sheet's frames; (1, 1): it is an image.
    """

    id: str
    path: str  # as it is opened
    questions: tuple[Question, ...]
    lines: tuple[int, ...]
    frames: tuple[int, int] = (1, 1)

    @cached_property
    def checksum(self) -> str:
        """That of the file: copies under other names are the same image."""
        return f"{zlib.crc32(Path(self.path).read_bytes()):08x}"

    @property
    def key(self) -> str:
        """The id with the checksum: another image of the same name is another one."""
        key = f"{self.id}@{self.checksum}"
        rows, columns = self.frames
        return key if self.frames == (1, 1) else f"{key}/{rows}x{columns}"

    def sample(self) -> Sample:
        """Open the image."""
        return Sample(self.key, open_image(self.path), self.questions, (), self.frames)


@checked
def is_own(suite: str) -> bool:
    """Return whether the name of a suite is the path of a file or folder of own questions.

    The name of a built-in suite is that suite, whatever lies in the working directory.
    """
    if suite in suites.SUITES:
        return False
    return suite.endswith(ENDING) or (Path(suite) / FILE).is_file()


@checked
def name_of(suite: str) -> str:
    """Return under which name the questions of a file or folder stand in results."""
    # absolute, for "." has no name; links keep theirs
    return Path(os.path.abspath(suite.removesuffix(ENDING))).name


@checked
def check_suite(suite: str) -> None:
    """Raise a `ValueError` unless a suite is built in, or an own one with a name for results."""
    if suite in suites.SUITES:
        return
    if not is_own(suite):
        hint = did_you_mean(suite, suites.SUITES, f"there are {', '.join(suites.SUITES)}")
        raise ValueError(f"suite {suite!r} is unknown: {hint}")
    name = name_of(suite)
    if name in suites.SUITES:
        raise ValueError(
            f"own suite {suite!r} would stand in results as the built-in suite {name!r}: "
            "give its file or folder another name"
        )
    # it stands on a figure, too
    if has_surrogate(name):
        raise ValueError(f"suite {suite!r} has a name that is not UTF-8: give it another")


@checked
def own_samples(images: Sequence[ImageFile], limit: int | None = None) -> Iterator[Sample]:
    """Yield images of `own_images` with their questions, `limit` questions in all.

    An image's id changes with its file and its questions, so that answers to others are never taken
    for theirs.
    """
    left = limit
    for image in images:
        questions = image.questions[:left]
        if not questions:
            return
        left = None if left is None else left - len(questions)
        asked = zlib.crc32(repr(image.questions).encode())
        yield replace(image.sample(), id=f"{image.key}#{asked:08x}", questions=questions)


@checked
def own_images(suite: str) -> list[ImageFile]:
    """Return the images of a suite; each of their questions has an answer.

    Raises:
        ValueError: see `read_images`; a question without an answer.
    """
    path = file_of(suite)
    images = read_images(path)
    for image in images:
        for question, line in zip(image.questions, image.lines, strict=True):
            if not question.answer:
                raise ValueError(
                    f"line {line} of {path} has no answer: give the truth, which `adafv eval` "
                    "compares with"
                )
    return images


@checked
def file_of(suite: str) -> Path:
    """Return the file of own questions."""
    path = Path(suite)
    return path / FILE if path.is_dir() else path


@checked
def read_images(path: Path) -> list[ImageFile]:
    """Return the questions of a JSONL file, by image.

    Its lines are `{"image": "a.png", "question": "what is there?", "answer": "a cup"}`. "answer" is
    the truth, where there is one, or a list of what is as right; "type" groups questions; "boxes"
    are the regions they ask about, left, top, right and bottom in pixels; "frame_grid" says that
    the image is the contact sheet of a video, of so many rows and columns of frames. A line may
    have the other keys of `adafv batch`, too, and none that is unknown. A line that is there twice
    counts once. All lines are checked and all images opened before this returns.

    Raises:
        ValueError: the file cannot be read or is empty; or, with the number of the line, what is
            wrong with it.
    """
    # by image and text, each question with the number of its line
    asked: dict[str, dict[str, tuple[Question, int]]] = {}
    files: dict[str, str] = {}
    sizes: dict[str, tuple[int, int]] = {}
    frame_grids: dict[str, tuple[int, int]] = {}
    for line in read_lines(path, strict=True)[0]:
        try:
            if line.error is not None:
                raise ValueError(line.error)
            if line.video:
                raise ValueError("a video is not measured yet: ask about frames as images")
            # relative, so that a folder can move with its answers
            name = os.path.relpath(line.image, path.parent)
            # a file that is no image is an error of its first line
            if name not in files:
                sizes[name] = open_image(line.image).size
                files[name] = line.image
            question = _question(line, sizes[name])
            frames = _frame_grid(line.frame_grid)
            if frame_grids.setdefault(name, frames) != frames:
                raise ValueError(
                    f"frame_grid={line.frame_grid!r}, but an earlier line has another one for this "
                    "image: give all of them the same"
                )

            # the same line twice counts once, another answer is a mistake
            own = asked.setdefault(name, {})
            known, number = own.setdefault(question.text, (question, line.number))
            if known != question:
                raise ValueError(
                    f"this is asked in line {number} too, with another answer: "
                    "leave one of them out"
                )
        except ValueError as error:
            raise ValueError(_with_line(str(error), line.number, path)) from None

    images = []
    for name, own in asked.items():
        questions, lines = zip(*own.values(), strict=True)
        images.append(ImageFile(name, files[name], questions, lines, frame_grids[name]))
    return images


def _question(line: Line, size: tuple[int, int]) -> Question:
    """Return what a line asks of an image of `size`, with "" for an answer that it lacks."""
    text = line.question.strip()
    if not text:
        raise ValueError("the question is empty: ask something about the image")
    type_ = "" if line.type is None else line.type
    if not isinstance(type_, str):
        raise ValueError(f"type={type_!r} is not text: name the group of the question")
    # a surrogate stands in the file as an escape, and in no table
    if has_surrogate(type_):
        raise ValueError(f"type={type_!r} holds half a character: write it whole")
    if type_ in RESERVED:
        raise ValueError(f"type={type_!r} is a name for groups of all types: give it another")
    answer, *also = _answers(line.answer)
    return Question(text, answer, type_, _boxes(line.boxes, size), tuple(also))


def _answers(given: Any) -> list[str]:
    """Return the answers that are right, [""] where none is given."""
    if given is None:
        return [""]
    answers = given if isinstance(given, list) and given else [given]
    for answer in answers:
        # a truth of nothing but space would make every answer wrong
        if not (isinstance(answer, str) and answer.strip()):
            raise ValueError(
                f"answer={given!r} is not text: give the truth in words, or leave it out"
            )
    return [answer.strip() for answer in answers]


def _boxes(given: Any, size: tuple[int, int]) -> tuple[Box, ...]:
    """Return the regions that a question asks about, of an image of `size` (width, height)."""
    if not isinstance(given, list | None):
        raise ValueError(f"boxes={given!r} are no regions: write {_REGIONS}")
    return tuple(_box(box, size) for box in given or ())


def _frame_grid(given: Any) -> tuple[int, int]:
    """Return rows and columns of a contact sheet's frames; (1, 1) where none are given."""
    if given is None:
        return 1, 1
    whole = isinstance(given, list) and len(given) == 2 and all(type(n) is int for n in given)
    if not whole or min(given) < 1:
        raise ValueError(
            f"frame_grid={given!r} is not two numbers: write rows and columns, e.g. [2, 2]"
        )
    return given[0], given[1]


def _box(box: Any, size: tuple[int, int]) -> Box:
    """Return a box that has an area, inside an image of `size` (width, height)."""
    if not (isinstance(box, list) and len(box) == 4 and all(map(_is_number, box))):
        raise ValueError(f"box {box!r} is not four numbers: write {_REGIONS}")
    # a box is half open: it holds its left and top edges
    left, top, right, bottom = box
    if not (left < right and top < bottom):
        raise ValueError(f"box {box} has no area: give left < right and top < bottom")
    if left < 0 or top < 0 or right > size[0] or bottom > size[1]:
        raise ValueError(
            f"box {box} leaves the image, which is {size[0]}×{size[1]} pixels: "
            "give pixels of the file"
        )
    return cast(Box, tuple(box))


def _is_number(value: Any) -> bool:
    """Return whether a value is a number: JSON's true is an int in Python, its NaN a float."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return math.isfinite(value)


def _with_line(error: str, number: int, path: Path) -> str:
    """Return an error with the line that it is about, unless it names it already."""
    if f"line {number} " in error:
        return f"{path}: {error}"
    return f"line {number} of {path}: {error}"
