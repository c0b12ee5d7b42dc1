"""What an engine is: it answers questions about images, in whatever order, an image's failure
being its own.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from transformers import ProcessorMixin

from adafv.core.pruner import Pruner

__all__ = ["Engine", "EngineError", "Request", "Response", "failed"]

LONGEST_ERROR = 400

Response = dict[str, Any]
"""answer, visual_tokens and kept_tokens of a question, or its error."""


class EngineError(ValueError):
    """An engine cannot start, or has died; no question's fault."""


@dataclass(frozen=True)
class Request:
    """A question that can be put to a model; whether its image can be opened is not known yet."""

    number: int
    image: str
    question: str
    pruner: Pruner


class Engine(Protocol):
    """What runs a model.

    Attributes:
        batch_size: questions it does best with at once.
        processor: of the model.
    """

    batch_size: ClassVar[int]
    processor: ProcessorMixin

    @property
    def settings(self) -> dict[str, Any]:
        """JSON-able: what of it decides the answers."""

    def check(self, pruner: Pruner) -> None:
        """Raise a `ValueError` if it cannot prune so."""

    def outcomes(
        self, asked: Iterator[Request], batch_size: int, max_new_tokens: int
    ) -> Iterator[dict[int, Response]]:
        """Answer questions.

        Args:
            asked: read as answers are given, `batch_size` ahead or so.
            max_new_tokens: the longest answer.

        Yields:
            Outcomes by the questions' numbers, as soon as there are any, in any order.

        Raises:
            EngineError: the engine cannot start, or has died.
        """


def failed(error: Exception | str) -> Response:
    """The outcome of a question that cannot be answered, in one sentence."""
    sentence = " ".join(str(error).split())
    if len(sentence) > LONGEST_ERROR:
        sentence = f"{sentence[: LONGEST_ERROR // 2]} … {sentence[-LONGEST_ERROR // 2 :]}"
    return {"error": sentence}
