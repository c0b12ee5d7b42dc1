"""Answer questions with stock transformers models, a batch after the other."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import islice
from typing import Any, ClassVar

import torch
from PIL import Image
from transformers import PreTrainedModel, ProcessorMixin

from adafv.batch.engine import Request, Response, failed
from adafv.core.chat_template import remember
from adafv.core.encode import encode
from adafv.core.pruner import Pruner
from adafv.core.tower_cache import TowerCache
from adafv.core.visual_tokens import Encoding
from adafv.models.generation import check_length, check_text_length, decode, generate
from adafv.models.images import open_image
from adafv.models.load import fingerprint, processor_fingerprint
from adafv.models.prompting import build_batch, build_inputs
from adafv.models.videos import FRAMES, Video, open_video
from adafv.models.vocabulary import warn_of_photograph
from adafv.utils.checks import is_out_of_memory

__all__ = ["HuggingFace"]


@dataclass(frozen=True)
class Opened:
    """A request with its image, or video; the same image is the same object."""

    request: Request
    image: Image.Image | Video


class HuggingFace:
    """A stock transformers model, in this process; an image is encoded once in a batch.

    Images that follow one another in several batches are not encoded again, either.

    Args:
        model, processor: as `adafv.load` returns them.
        name: of the model.
    """

    batch_size: ClassVar[int] = 8
    reads_videos: ClassVar[bool] = True

    def __init__(self, model: PreTrainedModel, processor: ProcessorMixin, name: str) -> None:
        self.model = model
        self.processor = processor
        self.name = name
        self.cache = TowerCache()

    @property
    def settings(self) -> dict[str, Any]:
        """Return, ready for JSON, what decides the answers."""
        return {
            "engine": "hf",
            "model": self.name,
            "weights": fingerprint(self.model),
            "processor": processor_fingerprint(self.processor),
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "device": self.model.device.type,
        }

    def check(self, pruner: Pruner) -> None:
        """Do nothing: every method is done."""

    def responses(
        self, requests: Iterator[Request], batch_size: int, max_new_tokens: int
    ) -> Iterator[dict[int, Response]]:
        """Answer requests, see `adafv.batch.engine.Engine`; in their order."""
        # the last batch may be shorter
        while batch := list(islice(requests, batch_size)):
            yield self._batch(batch, max_new_tokens)

    def _batch(self, batch: list[Request], max_new_tokens: int) -> dict[int, Response]:
        """Answer requests, those with the same pruner together."""
        found: dict[int, Response] = {}

        # open the images, each once; group by pruner
        opened = cache(open_image)
        groups: dict[int, list[Opened]] = {}
        for request in batch:
            # one at a time: a video takes much memory
            if request.video:
                found[request.number] = self._of_video(request, max_new_tokens)
                continue
            try:
                image = opened(request.image)
            except ValueError as error:
                found[request.number] = failed(error)
            else:
                warn_of_photograph(image, self.name)
                groups.setdefault(id(request.pruner), []).append(Opened(request, image))

        for group in groups.values():
            answered = self._group(group, max_new_tokens)
            for question, response in zip(group, answered, strict=True):
                found[question.request.number] = response
        return found

    def _of_video(self, request: Request, max_new_tokens: int) -> Response:
        """Answer a question about a video."""
        frames = FRAMES if request.frames is None else request.frames
        try:
            video = open_video(request.video, frames)
        except ValueError as error:
            return failed(error)
        (response,) = self._group([Opened(request, video)], max_new_tokens)
        return response

    def _group(self, group: Sequence[Opened], max_new_tokens: int) -> list[Response]:
        """Answer questions with one pruner; if that fails together, then half by half."""
        try:
            with self.cache:
                return answers(self.model, self.processor, group, max_new_tokens)
        except (ValueError, RuntimeError, MemoryError) as error:
            # a large image may not fit together with others
            if is_out_of_memory(error):
                failure = ValueError(
                    "the memory of the device is too small for this image: pass a smaller --keep"
                )
            elif isinstance(error, ValueError):
                failure = error
            else:
                raise
        if len(group) == 1:
            return [failed(failure)]

        # only the question that is at fault is to fail
        half = len(group) // 2
        first = self._group(group[:half], max_new_tokens)
        return first + self._group(group[half:], max_new_tokens)


@torch.no_grad()
def answers(
    model: PreTrainedModel, processor: ProcessorMixin, group: Sequence[Opened], max_new_tokens: int
) -> list[Response]:
    """Answer questions together, from the visual tokens that the first one's pruner keeps.

    Raises:
        ValueError: a question, image or budget among them that cannot be answered.
    """
    # encode
    pruner = group[0].request.pruner
    inputs = _inputs(model, processor, group)
    check_text_length(model, inputs)
    remember(model, processor)
    encoding = _encoding(model, processor, group, inputs)

    # prune, then answer from the shorter inputs
    with pruner.pruned(model, inputs, encoding) as (short, selection):
        check_length(model, short["input_ids"])
        # (B, new) ids as text
        texts = decode(processor, generate(model, short, max_new_tokens))

    # what crops count as images of their own belongs to one question
    visual = [0] * len(group)
    kept = [0.0] * len(group)
    counts = encoding.tokens.counts
    for span, count, read in zip(encoding.spans, counts, selection.tokens_read, strict=True):
        visual[span.row] += count
        kept[span.row] += read

    found = []
    for text, n, k in zip(texts, visual, kept, strict=True):
        # a method that prunes between layers reads different numbers: on average
        found.append({"answer": text, "visual_tokens": n, "kept_tokens": round(k)})
    return found


def _encoding(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    group: Sequence[Opened],
    inputs: dict[str, Any],
) -> Encoding:
    """Return the encoded images of a group, each run through the tower once."""
    pruner = group[0].request.pruner
    # by identity: the same file was opened once
    distinct = {id(question.image): question for question in group}
    # a method that shrinks images encodes them its own way
    if pruner.shrinks or len(distinct) == len(group):
        return pruner.encode(model, inputs)

    # encode each image once, without text, then put every question to the encoding of its own
    inputs_once = _inputs(model, processor, [*distinct.values()])
    once = encode(model, inputs_once, signals=pruner.signals, text=False)
    index = {image: i for i, image in enumerate(distinct)}
    return pruner.reask(model, inputs, once, [index[id(question.image)] for question in group])


def _inputs(
    model: PreTrainedModel, processor: ProcessorMixin, group: Sequence[Opened]
) -> dict[str, Any]:
    """Return inputs of a group, padded on the left."""
    images: list[Image.Image] = []
    for opened in group:
        if isinstance(opened.image, Video):
            # alone in its group
            question = opened.request.question
            return build_inputs(processor, opened.image, question, model.device, model.dtype)
        images.append(opened.image)
    questions = [opened.request.question for opened in group]
    # (B, L) prompts, each with one image
    return build_batch(processor, images, questions, model.device, model.dtype)
