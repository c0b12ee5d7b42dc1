"""An image, what is on it, and what is asked about it."""

from dataclasses import dataclass

from PIL import Image

from adafv.data.judging import same_answer

__all__ = ["BLIND", "Box", "Question", "Sample", "Thing"]

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
        """Return whether an answer is right, see `adafv.data.judging`."""
        return any(same_answer(answer, right) for right in (self.answer, *self.also))


@dataclass(frozen=True)
class Sample:
    """An image with the questions asked about it.

    Attributes:
        id: unique within a suite.
        image: as it is drawn; of a video a contact sheet, its frames side by side.
        questions: that are asked.
        things: on the image; empty where nobody knows them (easy-vqa).
        frames: rows and columns of a contact sheet's frames, in reading order; (1, 1): an image.
    """

    id: str
    image: Image.Image
    questions: tuple[Question, ...]
    things: tuple[Thing, ...]
    frames: tuple[int, int] = (1, 1)
