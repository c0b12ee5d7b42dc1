"""The Hugging Face engine: questions on images, answered together."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import islice
from typing import Any, ClassVar

import torch
from PIL import Image
from transformers import PreTrainedModel, ProcessorMixin

from adafv.batch.engine import Request, Response, failed
from adafv.core.encode import encode
from adafv.core.pruner import Pruner
from adafv.core.turns import remember
from adafv.core.visual_tokens import Encoding
from adafv.models.generation import check_length, decode, generate
from adafv.models.images import open_image
from adafv.models.load import fingerprint
from adafv.models.prompting import build_batch

__all__ = ["HuggingFace"]


@dataclass(frozen=True)
class Opened:
    """A question with its image; the same image is the same object."""

    asked: Request
    image: Image.Image


class HuggingFace:
    """Stock transformers models, in this process, a batch after the other. An image is encoded
    once per batch.

    Args:
        name: of the model.
    """

    batch_size: ClassVar[int] = 8

    def __init__(self, model: PreTrainedModel, processor: ProcessorMixin, name: str) -> None:
        self.model, self.processor, self.name = model, processor, name

    @property
    def settings(self) -> dict[str, Any]:
        return {
            "engine": "hf",
            "model": self.name,
            "weights": fingerprint(self.model),
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "device": self.model.device.type,
        }

    def check(self, pruner: Pruner) -> None:
        """Every method is done."""

    def outcomes(
        self, asked: Iterator[Request], batch_size: int, max_new_tokens: int
    ) -> Iterator[dict[int, Response]]:
        while batch := list(islice(asked, batch_size)):
            yield self._outcomes(batch, max_new_tokens)

    def _outcomes(self, batch: list[Request], max_new_tokens: int) -> dict[int, Response]:
        found: dict[int, Response] = {}
        opened = cache(open_image)
        groups: dict[int, list[Opened]] = {}
        for asked in batch:
            try:
                question = Opened(asked, opened(asked.image))
            except ValueError as error:
                found[asked.number] = failed(error)
            else:
                groups.setdefault(id(asked.pruner), []).append(question)
        for group in groups.values():
            found |= zip(
                (x.asked.number for x in group), self._answers(group, max_new_tokens), strict=True
            )
        return found

    def _answers(self, group: Sequence[Opened], max_new_tokens: int) -> list[Response]:
        """Answers to questions with one pruner; of those that cannot be answered together, half by
        half.
        """
        try:
            return answers(self.model, self.processor, group, max_new_tokens)
        except torch.OutOfMemoryError:
            failure = ValueError(
                "the memory of the device is too small for this image: pass a smaller --keep"
            )
        except ValueError as error:
            failure = error
        if len(group) == 1:
            return [failed(failure)]
        half = len(group) // 2
        return [
            x for part in (group[:half], group[half:]) for x in self._answers(part, max_new_tokens)
        ]


@torch.no_grad()
def answers(
    model: PreTrainedModel, processor: ProcessorMixin, group: Sequence[Opened], max_new_tokens: int
) -> list[Response]:
    """Answer, visual_tokens and kept_tokens of each question; the first one's pruner holds for all.

    Raises:
        ValueError: a question, image or budget among them that cannot be answered.
    """
    pruner, inputs = group[0].asked.pruner, _inputs(model, processor, group)
    remember(model, processor)
    encoding = _encoding(model, processor, group, inputs)
    counts = encoding.tokens.counts
    with pruner.pruned(model, inputs, encoding) as (short, selection):
        check_length(model, short["input_ids"])
        texts = decode(processor, generate(model, short, max_new_tokens))
    visual, kept = [0] * len(group), [0.0] * len(group)
    for span, count, read in zip(encoding.spans, counts, selection.tokens_read, strict=True):
        visual[span.row] += count
        kept[span.row] += read
    return [
        {"answer": text, "visual_tokens": n, "kept_tokens": round(k)}
        for text, n, k in zip(texts, visual, kept, strict=True)
    ]


def _encoding(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    group: Sequence[Opened],
    inputs: dict[str, Any],
) -> Encoding:
    """The encoded images of a group, each run through the tower once."""
    pruner, distinct = group[0].asked.pruner, {id(x.image): x for x in group}
    if len(distinct) == len(group):
        return pruner.encode(model, inputs)
    once = encode(
        model, _inputs(model, processor, [*distinct.values()]), signals=pruner.signals, text=False
    )
    place = {image: i for i, image in enumerate(distinct)}
    return pruner.reask(model, inputs, once, [place[id(x.image)] for x in group])


def _inputs(
    model: PreTrainedModel, processor: ProcessorMixin, group: Sequence[Opened]
) -> dict[str, Any]:
    images, questions = [x.image for x in group], [x.asked.question for x in group]
    return build_batch(processor, images, questions, model.device, model.dtype)
