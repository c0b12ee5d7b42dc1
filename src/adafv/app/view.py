"""Define what the cards are drawn from: a question, and what each method made of it."""

from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray
from PIL import Image

from adafv.models.ask import Answer
from adafv.viz import Explanation, Word

__all__ = ["DENSE", "Result", "View"]

DENSE = "none"
"""The method that keeps everything."""

Array = NDArray[Any]


@dataclass(frozen=True)
class Result:
    """The result of one method for a question.

    Attributes:
        method: its name.
        answer: None where the method refuses; `note` says why.
        explanation: what led to the answer; None where it cannot be drawn.
        note: a sentence, if anything is missing.
        others: how many of the kept tokens were not kept for the question before; None without one,
            and of methods that prune between layers.
    """

    method: str
    answer: Answer | None = None
    explanation: Explanation | None = None
    note: str = ""
    others: int | None = None


@dataclass(frozen=True)
class View:
    """Everything the page shows.

    Attributes:
        image, question, keep: what was asked.
        results: the dense model's, then those of the methods.
        saliency, relevance: (N,) the image's own a_v and a_t, for methods that don't look at
            them.
        words: of the question, each with what it resembles.
        vision_ms: what the image's encoding took.
        before: the question before this one, on the same image.
    """

    image: Image.Image
    question: str
    keep: float
    results: list[Result]
    saliency: Array
    relevance: Array
    words: list[Word]
    vision_ms: float
    before: str | None
