"""A picture, what is on it, and what is asked about it."""

from dataclasses import dataclass

from PIL import Image

__all__ = ["BLIND", "Box", "Question", "Sample", "Thing"]

BLIND = "blind"
"""The name of the model that sees no picture."""

Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class Thing:
    """One drawn thing. `box` is left, top, right, bottom in pixels; `text` is what a card bears."""

    name: str
    color: str
    box: Box
    text: str | None = None


@dataclass(frozen=True)
class Question:
    """A question, its one-word answer, its type, and the boxes of what must be looked at to answer
    it.
    """

    text: str
    answer: str
    type: str
    boxes: tuple[Box, ...]


@dataclass(frozen=True)
class Sample:
    """A picture with the questions asked about it.

    `things` is empty where nobody knows them (easy-vqa).
    """

    id: str
    image: Image.Image
    questions: tuple[Question, ...]
    things: tuple[Thing, ...]
