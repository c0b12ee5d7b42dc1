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
    path: str  # as it is opened
    questions: tuple[Question, ...]
    lines: tuple[int, ...]

    def sample(self) -> Sample:
        """Open the image."""
        return Sample(self.id, open_image(self.path), self.questions, ())


@checked
def read_images(path: Path) -> list[ImageFile]:
    """Return the questions of a JSONL file, by image.

    Its lines are `{"image": "a.png", "question": "what is there?", "answer": "a cup"}`. "answer" is
    the truth, where there is one; other keys are ignored; a line that is there twice
    counts once. All lines are checked and all images opened before this returns.

    Raises:
        ValueError: the file cannot be read, is empty or speaks of a single image; or, with the
            number of the line, what is wrong with it.
    """
    # by image and text, each question with the number of its line
    asked: dict[str, dict[str, tuple[Question, int]]] = {}
    files: dict[str, str] = {}
    for line in read_lines(path)[0]:
        try:
            question = _question(line)
            # relative, so that a folder can move with its answers
            name = os.path.relpath(line.image, path.parent)
            # a file that is no image is an error of its first line
            if name not in files:
                open_image(line.image)
                files[name] = line.image

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
    if len(asked) < 2:
        # one half chooses, the other reports
        raise ValueError(
            f"{path} asks about one image, which cannot be split into halves: add lines on others"
        )

    images = []
    for name, own in asked.items():
        questions, lines = zip(*own.values(), strict=True)
        images.append(ImageFile(name, files[name], questions, lines))
    return images


@checked
def halves(images: Sequence[ImageFile], seed: int) -> tuple[list[ImageFile], list[ImageFile]]:
    """Draw two halves at random, each in the order of the file; the first has the odd one out."""
    # whole images: questions on one image go right or wrong together
    order = list(range(len(images)))  # indices of images
    random.Random(seed).shuffle(order)
    middle = (len(order) + 1) // 2
    first = [images[i] for i in sorted(order[:middle])]
    second = [images[i] for i in sorted(order[middle:])]
    return first, second


def _question(line: Line) -> Question:
    """Return what a line asks, with "" for an answer that it lacks."""
    if line.error is not None:
        raise ValueError(line.error)
    text = line.question.strip()
    answer = line.answer
    if not text:
        raise ValueError("the question is empty: ask something about the image")
    # a truth of nothing but space would make every answer wrong
    if answer is not None and not (isinstance(answer, str) and answer.strip()):
        raise ValueError(f"answer={answer!r} is not text: give the truth in words, or leave it out")
    return Question(text, (answer or "").strip(), "", ())


def _with_line(error: str, number: int, path: Path) -> str:
    """Return an error with the line that it is about, unless it names it already."""
    if f"line {number} " in error:
        return f"{path}: {error}"
    return f"line {number} of {path}: {error}"
