"""An image, what is on it, and what is asked about it."""

from dataclasses import dataclass

from PIL import Image

from adafv.utils.checks import checked

__all__ = ["BLIND", "Box", "Question", "Sample", "Thing", "same_answer"]

BLIND = "blind"
"""The name of the model that sees no image."""

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
    """A question with its one-word answer.

    Attributes:
        text, answer: as they are written.
        type: groups questions in a table; "" where they have none.
        boxes: of what must be looked at to answer it.
    """

    text: str
    answer: str
    type: str
    boxes: tuple[Box, ...]


@dataclass(frozen=True)
class Sample:
    """An image with the questions asked about it.

    `things` is empty where nobody knows them (easy-vqa).
    """

    id: str  # unique within a suite
    image: Image.Image
    questions: tuple[Question, ...]
    things: tuple[Thing, ...]


@checked
def same_answer(answer: str, truth: str) -> bool:
    """Tell if two answers are the same, but for case and the space around them."""
    # a model may begin with a capital, or end in a space
    return answer.strip().casefold() == truth.strip().casefold()
