"""An image, what is on it, and what is asked about it."""

import re
import unicodedata
from dataclasses import dataclass

from PIL import Image

from adafv.utils.checks import checked

__all__ = ["BLIND", "Box", "Question", "Sample", "Thing", "normalised", "same_answer"]

BLIND = "blind"
"""The name of the model that sees no image."""

FILLERS = frozenset({"a", "an", "the", "some", "at", "in", "on", "there", "is", "are", "it", "to"})
NUMBERS = {
    "zero": "0",
    "one": "1",
    "two": "2",
    "three": "3",
    "four": "4",
    "five": "5",
    "six": "6",
    "seven": "7",
    "eight": "8",
    "nine": "9",
    "ten": "10",
}

Box = tuple[int, int, int, int]
"""left, top, right, bottom, in pixels"""


@dataclass(frozen=True)
class Thing:
    """One drawn thing; `text` is what a card bears."""

    name: str  # of an icon, or "card"
    color: str
    box: Box
    text: str | None = None


@dataclass(frozen=True)
class Question:
    """A question with its answer.

    Attributes:
        text, answer: as they are written.
        type: groups questions in a table; "" where they have none.
        boxes: of what must be looked at to answer it.
        also: other answers that are as right.
    """

    text: str
    answer: str
    type: str
    boxes: tuple[Box, ...]
    also: tuple[str, ...] = ()

    def accepts(self, answer: str) -> bool:
        """Return whether an answer is right, see `normalised`."""
        return any(same_answer(answer, right) for right in (self.answer, *self.also))


@dataclass(frozen=True)
class Sample:
    """An image with the questions asked about it.

    Attributes:
        id: unique within a suite.
        image: as it is drawn; of a clip a contact sheet, its frames side by side.
        questions: that are asked.
        things: on the image; empty where nobody knows them (easy-vqa).
        frames: rows and columns of a contact sheet's frames, in reading order; (1, 1): an image.
    """

    id: str
    image: Image.Image
    questions: tuple[Question, ...]
    things: tuple[Thing, ...]
    frames: tuple[int, int] = (1, 1)


@checked
def normalised(answer: str) -> str:
    """Return an answer without what makes it no other.

    In lower case, numbers as digits, without punctuation and words such as articles; an answer of
    nothing else keeps them. What changes a number or a name is no punctuation: "-5", "1.5", "1/2",
    "C++".
    """
    plain = unicodedata.normalize("NFKC", answer).casefold()
    american = plain.replace("grey", "gray").replace("colour", "color")
    words = _words(american)
    kept = [NUMBERS.get(word, word) for word in words if word not in FILLERS]
    return " ".join(kept or words) or american.strip()


def _words(text: str) -> list[str]:
    """Return numbers and words; the marks of a script belong to the letter before them."""
    marks = "".join({char for char in text if unicodedata.category(char).startswith("M")})
    number = r"(?<!\w)-?\d+(?:[./]\d+)*(?!\w)"
    return re.findall(rf"{number}|[\w{re.escape(marks)}]+(?:\+\+|#)?", text)


@checked
def same_answer(answer: str, truth: str) -> bool:
    """Tell if two answers are the same, see `normalised`."""
    return normalised(answer) == normalised(truth)
