"""A user's own questions, by image."""

import os
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from adafv.batch.jsonl import Line, read_lines
from adafv.data.sample import Question, Sample
from adafv.models.images import open_image
from adafv.utils.checks import checked

__all__ = ["ImageFile", "halves", "read_images"]


@dataclass(frozen=True)
class ImageFile:
    """An image file with what is asked about it.

    Attributes:
        id: its path from the folder of the questions.
        path: of the file.
        questions: in the order of the lines, none twice; an empty answer: the dense model's is the
            truth.
        lines: their numbers.
    """

    id: str
    path: str
    questions: tuple[Question, ...]
    lines: tuple[int, ...]

    def sample(self) -> Sample:
        """The image opened."""
        return Sample(self.id, open_image(self.path), self.questions, ())


@checked
def read_images(path: Path) -> list[ImageFile]:
    """The questions of a JSONL file: lines of `{"image": "a.png", "question": "what is there?",
    "answer": "a cup"}`.

    "answer" is the truth, where there is one; other keys are ignored; a line that is there twice
    counts once. All lines are checked and all images opened before this returns.

    Raises:
        ValueError: the file cannot be read, is empty or speaks of a single image; or, with the
            number of the line, what is wrong with it.
    """
    asked: dict[str, dict[str, tuple[Question, int]]] = {}
    files: dict[str, str] = {}
    for line in read_lines(path)[0]:
        try:
            question = _question(line)
            name = os.path.relpath(line.image, path.parent)
            if name not in files:
                open_image(line.image)
                files[name] = line.image
            known, number = asked.setdefault(name, {}).setdefault(
                question.text, (question, line.number)
            )
            if known != question:
                raise ValueError(
                    f"this is asked in line {number} too, with another answer: leave one of them out"
                )
        except ValueError as error:
            raise ValueError(_placed(str(error), line.number, path)) from None
    if len(asked) < 2:
        raise ValueError(
            f"{path} asks about one image, which cannot be split into halves: add lines on others"
        )
    return [
        ImageFile(
            name, files[name], tuple(q for q, _ in own.values()), tuple(n for _, n in own.values())
        )
        for name, own in asked.items()
    ]


@checked
def halves(images: Sequence[ImageFile], seed: int) -> tuple[list[ImageFile], list[ImageFile]]:
    """Two halves drawn at random, each in the order of the file; the first has the odd one out."""
    order = list(range(len(images)))
    random.Random(seed).shuffle(order)
    middle = (len(order) + 1) // 2
    first, second = ([images[i] for i in sorted(part)] for part in (order[:middle], order[middle:]))
    return first, second


def _question(line: Line) -> Question:
    if line.error is not None:
        raise ValueError(line.error)
    text, answer = line.question.strip(), line.answer
    if not text:
        raise ValueError("the question is empty: ask something about the image")
    if answer is not None and not (isinstance(answer, str) and answer.strip()):
        raise ValueError(f"answer={answer!r} is no text: give the truth in words, or leave it out")
    return Question(text, (answer or "").strip(), "", ())


def _placed(error: str, number: int, path: Path) -> str:
    return f"{path}: {error}" if f"line {number} " in error else f"line {number} of {path}: {error}"
