"""The measuring: signals against the boxes of a question, methods until they keep a token there."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm
from transformers import PreTrainedModel, ProcessorMixin

from adafv.analysis.findings import (
    CHANCE,
    CONTENT,
    COSINE,
    DISTINCT,
    MUTUAL,
    RECEIVED,
    RELEVANCE,
    TOWER,
    Finding,
    Findings,
    find,
)
from adafv.analysis.first_hit import check_has_first_hit, first_hits
from adafv.analysis.signals import (
    chance,
    distinct,
    llm_attention,
    measured_layers,
    mutual_attention,
    similarity,
)
from adafv.analysis.sources import Source
from adafv.analysis.statistics import Array
from adafv.core.encode import encode, reask
from adafv.core.pruner import Pruner
from adafv.core.signals import SALIENCY
from adafv.core.visual_tokens import Encoding
from adafv.data.sample import Question, Sample
from adafv.evaluation.boxes import distances, patches
from adafv.families import check_has_grid
from adafv.methods import TextToImage, from_spec
from adafv.models.boilerplate import boilerplate
from adafv.models.prompting import build_batch, check_question
from adafv.utils.checks import checked

__all__ = ["Analysis"]


@dataclass(frozen=True)
class _Item:
    """A question to be measured: which of a chunk's images, its text, and related tokens (N,)."""

    image: int
    text: str
    related: Array  # (N,) bool


@checked
@dataclass(frozen=True, kw_only=True)
class Analysis:
    """An analysis: signals and methods, and the questions that they are measured on.

    Args:
        sources: where the questions come from.
        methods: as `adafv.methods.from_spec` reads them, for first-hit budgets; those that choose
            before the language model.
        seed: of the random control.
        batch_size: prompts that the language model reads at once; about as many are encoded at
            once.

    Raises:
        ValueError: an unknown method, one that keeps everything, chooses inside the language model,
            shrinks images or prunes videos, an empty list, or a batch size below 1.
    """

    sources: Sequence[Source]
    methods: Sequence[str]
    seed: int = 0
    batch_size: int = 8

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"batch_size={self.batch_size} is too few: pass 1 or more")
        for name in ("sources", "methods"):
            if not getattr(self, name):
                raise ValueError(f"{name} is an empty list: pass at least one")
        # unknown methods are refused before a model is loaded
        _ = self.pruners

    @cached_property
    def pruners(self) -> dict[str, Pruner]:
        """The methods; their own budget is not used."""
        return self._pruners(tuple)

    def _pruners(self, template: Callable[[], Iterable[int]]) -> dict[str, Pruner]:
        found = {}
        for name in self.methods:
            if name == "none":
                raise ValueError(
                    "method 'none' keeps every token, there is nothing to count: leave it out"
                )
            found[name] = from_spec(name, template, tokens=1)
            check_has_first_hit(name, found[name])
        return found

    def run(
        self, model: PreTrainedModel, processor: ProcessorMixin, *, progress: bool = False
    ) -> Findings:
        """Measure every question that has boxes, with visual tokens inside them and outside.

        Raises:
            ValueError: there is no such question, or one holds a control token of the model.
        """
        # without a grid there is no telling which tokens lie in a box
        check_has_grid(model)
        findings = Findings()
        for source in self.sources:
            out: Counter[str] = Counter()
            findings.left_out[source.name] = out
            with tqdm(
                total=source.questions, desc=source.name, unit="question", disable=not progress
            ) as bar:
                for samples in self._chunks(source, out, bar):
                    found = self._chunk(model, processor, source.name, samples, out)
                    findings.questions.extend(found)
                    bar.update(sum(len(sample.questions) for sample in samples))
        if not findings.questions:
            names = ", ".join(source.name for source in self.sources)
            raise ValueError(
                f"no question of {names} has a box with visual tokens inside and outside: "
                "pass a scenes suite, or --boxes with boxes of what must be looked at"
            )
        return findings

    def _chunks(self, source: Source, out: Counter[str], bar: tqdm) -> Iterator[list[Sample]]:
        """Yield images whose questions with boxes fill a batch; the other questions are counted."""
        chunk: list[Sample] = []
        count = 0
        for sample in source.samples:
            asked = tuple(question for question in sample.questions if question.boxes)
            without = len(sample.questions) - len(asked)
            if without:
                bar.update(without)
                out["no box"] += without
            if asked:
                chunk.append(replace(sample, questions=asked))
                count += len(asked)
            if count >= self.batch_size:
                yield chunk
                chunk = []
                count = 0
        if chunk:
            yield chunk

    @torch.no_grad()
    def _chunk(
        self,
        model: PreTrainedModel,
        processor: ProcessorMixin,
        suite: str,
        samples: list[Sample],
        out: Counter[str],
    ) -> Iterator[Finding]:
        """Measure the questions on some images, from one pass of the tower."""
        images = self._encode(model, processor, suite, samples)
        items = _items(processor, images, samples, out)
        for start in range(0, len(items), self.batch_size):
            batch = items[start : start + self.batch_size]
            yield from self._batch(model, processor, suite, samples, images, batch)

    def _batch(
        self,
        model: PreTrainedModel,
        processor: ProcessorMixin,
        suite: str,
        samples: list[Sample],
        images: Encoding,
        items: list[_Item],
    ) -> Iterator[Finding]:
        """Measure a batch of questions, each a prompt of its own."""
        indices = []
        shown = []
        texts = []
        related = []
        for item in items:
            indices.append(item.image)
            shown.append(samples[item.image].image)
            texts.append(item.text)
            related.append(item.related)
        prompts = build_batch(processor, shown, texts, model.device, model.dtype)
        encoding = reask(model, prompts, images, indices)

        # what the signals say, and when each method first hits
        scores = self._scores(model, processor, prompts, encoding)
        hits = {}
        for name, pruner in self._pruners(lambda: boilerplate(processor)).items():
            # a method that skips text tokens reads another text
            skip = frozenset(pruner.skip)
            read = reask(model, prompts, encoding, skip=skip) if skip else encoding
            hits[name] = first_hits(pruner, read.tokens, related)

        for i, item in enumerate(items):
            sample = samples[item.image]
            own = {}
            for name, score in scores.items():
                own[name] = score[i].float().cpu().numpy()  # (N,)
            own[CHANCE] = chance(len(item.related), self.seed, suite, sample.id, item.text)
            yield find(
                suite,
                sample.id,
                encoding.tokens.coordinates[i][:, 0].numpy(),
                item.related,
                own,
                {name: found[i] for name, found in hits.items()},
            )

    def _encode(
        self, model: PreTrainedModel, processor: ProcessorMixin, suite: str, samples: list[Sample]
    ) -> Encoding:
        """Run the tower once for all signals and methods."""
        for sample in samples:
            for question in sample.questions:
                _check(processor, suite, question)

        signals = {SALIENCY, *RECEIVED.values()}
        for pruner in self.pruners.values():
            signals |= pruner.signals

        # the question changes later; one is needed to make a prompt
        images = []
        questions = []
        for sample in samples:
            images.append(sample.image)
            questions.append(sample.questions[0].text)
        inputs = build_batch(processor, images, questions, model.device, model.dtype)
        return encode(model, inputs, signals=frozenset(signals), text=False)

    def _scores(
        self,
        model: PreTrainedModel,
        processor: ProcessorMixin,
        prompts: dict[str, Any],
        encoding: Encoding,
    ) -> dict[str, list[Tensor]]:
        """Return, for each signal, one (N,) tensor per question."""
        tokens = encoding.tokens
        content = reask(model, prompts, encoding, skip=boilerplate(processor)).tokens
        attention = TextToImage(tokens=1)

        # (I, N) each
        padded = {
            COSINE: similarity(tokens),
            COSINE + CONTENT: similarity(content),
            RELEVANCE: attention.score(tokens),
            RELEVANCE + CONTENT: attention.score(content),
            TOWER: tokens.saliency,
        }
        for name, signal in RECEIVED.items():
            padded[name] = tokens.signals[signal]
        padded[MUTUAL] = mutual_attention(tokens)
        padded[DISTINCT] = distinct(tokens)

        # without padding
        scores: dict[str, list[Tensor]] = {}
        for name, score in padded.items():
            scores[name] = [row[:count] for row, count in zip(score, tokens.counts, strict=True)]

        # the language model's own attention, under all visual tokens
        layers = measured_layers(tokens.layers)
        rows = llm_attention(model, prompts, encoding, layers)
        for layer, own in zip(layers, rows, strict=True):
            scores[f"LLM attention, layer {layer + 1}"] = own
        return scores


def _items(
    processor: ProcessorMixin, images: Encoding, samples: list[Sample], out: Counter[str]
) -> list[_Item]:
    """Return the questions with tokens inside their boxes and outside; count the others."""
    items = []
    grids = images.tokens.coordinates
    for i, (sample, coordinates) in enumerate(zip(samples, grids, strict=True)):
        grid = patches(processor, sample.image.size, coordinates)  # (N, 4)
        for question in sample.questions:
            inside = distances(grid, question.boxes).isfinite()  # (N, boxes)
            related = inside.any(1).numpy()  # (N,)
            if related.all():
                out["every token in the boxes"] += 1
            elif not related.any():
                out["no token in the boxes"] += 1
            else:
                items.append(_Item(i, question.text, related))
    return items


def _check(processor: ProcessorMixin, suite: str, question: Question) -> None:
    """Refuse a question that the model cannot be asked, with its suite."""
    try:
        check_question(processor, question.text)
    except ValueError as error:
        raise ValueError(f"{suite}, question {question.text!r}: {error}") from None
