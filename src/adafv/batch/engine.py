"""Define an engine: it answers questions about images, in any order, and failures are a line's own.

`adafv.batch` runs jobs over a file; an engine is what runs their model.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from transformers import ProcessorMixin

from adafv.core.pruner import Pruner

__all__ = ["Engine", "EngineError", "Request", "Response", "failed"]

LONGEST_ERROR = 400  # characters; some errors of PyTorch and vLLM are pages long

Response = dict[str, Any]
"""answer, visual_tokens and kept_tokens of a question, or its error."""


class EngineError(ValueError):
    """An engine cannot start, or has died; no question's fault."""


@dataclass(frozen=True)
class Request:
    """A question that can be put to a model, whose image or video has not been opened yet.

    Attributes:
        number: of its line, from 1.
        image: path; empty for a question about a video.
        question: as `check_question` returns it.
        pruner: the method at its budget; the same object for requests that may be answered
            together.
        video: path; empty for a question about an image.
        frames: of the video; None: as many as `adafv.models.videos.open_video` reads.
    """

    number: int
    image: str
    question: str
    pruner: Pruner
    video: str = ""
    frames: int | None = None


class Engine(Protocol):
    """A runner of a model.

    Attributes:
        batch_size: questions it does best with at once.
        reads_videos: it answers questions about videos, too.
        processor: of the model.
    """

    batch_size: ClassVar[int]
    reads_videos: ClassVar[bool]
    processor: ProcessorMixin

    @property
    def settings(self) -> dict[str, Any]:
        """Return, ready for JSON, what decides the answers."""

    def check(self, pruner: Pruner) -> None:
        """Raise a `ValueError` if it cannot prune so."""

    def responses(
        self, requests: Iterator[Request], batch_size: int, max_new_tokens: int
    ) -> Iterator[dict[int, Response]]:
        """Answer requests.

        Args:
            requests: read as answers are given, `batch_size` ahead or so.
            batch_size: requests at once.
            max_new_tokens: the longest answer.

        Yields:
            Responses by the requests' numbers, as soon as there are any, in any order.

        Raises:
            EngineError: the engine cannot start, or has died.
        """


def failed(error: Exception | str) -> Response:
    """Return the response to a question that cannot be answered, in one sentence."""
    sentence = " ".join(str(error).split())
    # the beginning says what went wrong, and the end what to do
    if len(sentence) > LONGEST_ERROR:
        sentence = f"{sentence[: LONGEST_ERROR // 2]} … {sentence[-LONGEST_ERROR // 2 :]}"
    return {"error": sentence}
