"""Questions on encoded images, answered under one configuration after another."""

import time
from dataclasses import replace
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel, ProcessorMixin

from adafv.core.encode import reask
from adafv.core.pruner import BudgetError, Pruner
from adafv.core.visual_tokens import Encoding
from adafv.evaluation.boxes import centers, distances
from adafv.evaluation.oracle import Oracle
from adafv.families import check_has_grid
from adafv.models.generation import check_length, decode, generate
from adafv.models.prompting import build_batch, build_text
from adafv.utils.checks import checked

__all__ = ["Prompts"]


@checked
class Prompts:
    """A batch of questions, each on one of the images that an encoding holds."""

    def __init__(
        self,
        model: PreTrainedModel,
        processor: ProcessorMixin,
        encoding: Encoding,
        images: list[int],
        samples: list[Any],
        asked: list[Any],
    ) -> None:
        self.model, self.processor = model, processor
        self.images, self.asked = [samples[i].image.size for i in images], asked
        questions = [question.text for question in asked]
        self.inputs = build_batch(
            processor, [samples[i].image for i in images], questions, model.device, model.dtype
        )
        check_length(model, self.inputs["input_ids"])
        self.blind = build_text(processor, questions, model.device)
        self.encodings = {frozenset[int](): reask(model, self.inputs, encoding, images)}

    def answer(self, pruner: Pruner | None, max_new_tokens: int) -> list[dict[str, Any]]:
        """Text, visual_tokens, kept_tokens and seconds of each."""
        encoding = self._without(frozenset(pruner.skip) if pruner else frozenset())
        counts = encoding.tokens.counts
        start = time.perf_counter()
        if pruner is None:
            read = [0.0] * len(counts)
            output = generate(self.model, self.blind, max_new_tokens)
        else:
            if isinstance(pruner, Oracle):
                pruner = replace(pruner, distances=self._distances())
            with pruner.pruned(self.model, self.inputs, encoding) as (short, selection):
                output = generate(self.model, short, max_new_tokens)
            read = selection.tokens_read
        texts = decode(self.processor, output)
        seconds = (time.perf_counter() - start) / len(texts)
        return [
            _answer(text, count, k, seconds)
            for text, count, k in zip(texts, counts, read, strict=True)
        ]

    def _without(self, skip: frozenset[int]) -> Encoding:
        """The images with the words they are asked about, `skip` left out."""
        if skip not in self.encodings:
            self.encodings[skip] = reask(
                self.model, self.inputs, self.encodings[frozenset()], skip=skip
            )
        return self.encodings[skip]

    def _distances(self) -> list[Tensor]:
        try:
            check_has_grid(self.model)
        except ValueError as error:
            raise BudgetError(str(error)) from None
        places = zip(
            self.images, self.encodings[frozenset()].tokens.coordinates, self.asked, strict=True
        )
        return [
            distances(centers(self.processor, size, coordinates), question.boxes)
            for size, coordinates, question in places
        ]


def _answer(text: str, count: int, read: float, seconds: float) -> dict[str, Any]:
    return {
        "answer": text,
        "visual_tokens": count,
        "kept_tokens": read,
        "seconds": round(seconds, 6),
    }
