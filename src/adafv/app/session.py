"""Keep what each visitor looks at: an image, encoded once, its questions and the answers so far."""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from numpy.typing import NDArray
from PIL import Image

from adafv.app.view import Result
from adafv.core.visual_tokens import Encoding
from adafv.utils.checks import checked
from adafv.viz import Word

__all__ = ["EncodedQuestion", "Session", "remember"]

Array = NDArray[Any]
K = TypeVar("K")
V = TypeVar("V")


@dataclass(frozen=True)
class EncodedQuestion:
    """A question on an encoded image.

    Attributes:
        inputs: the prompt, without what the encoder has used up.
        encoding: of the image, with the question's text tokens.
        saliency, relevance: (N,) of the image's visual tokens.
        words: of the question.
    """

    inputs: dict[str, Any]
    encoding: Encoding
    saliency: Array
    relevance: Array
    words: list[Word]


@dataclass
class Session:
    """The image that one visitor looks at, and all that is known of it.

    Attributes:
        source: where the image comes from.
        image: as it was opened.
        encoding: of the image, with the signals that were asked for so far.
        vision_ms: what that took; of pixels that were encoded before, what it took then.
        question: what was asked last; None: nothing yet.
        before: the question before it, another one; None without one.
        names: the methods that were asked last.
        questions: encoded, those two.
        results: by question, method and share.
    """

    source: str
    image: Image.Image
    encoding: Encoding | None = None
    vision_ms: float = 0.0
    question: str | None = None
    before: str | None = None
    names: tuple[str, ...] = ()
    questions: OrderedDict[str, EncodedQuestion] = field(default_factory=OrderedDict)
    results: OrderedDict[tuple[str, str, float], Result] = field(default_factory=OrderedDict)

    def note(self, question: str, names: Sequence[str]) -> None:
        """Note what is asked now."""
        if question != self.question:
            self.before = self.question
        self.question = question
        self.names = tuple(names)


@checked
def remember(memory: OrderedDict[K, V], key: K, value: V, most: int) -> None:
    """Note something as used last, and forget what was not used for longest."""
    memory[key] = value
    # the most recent stand at the end
    memory.move_to_end(key)
    while len(memory) > most:
        memory.popitem(last=False)
