"""The measuring: signals against the boxes of a question, methods until they keep a token there."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm
from transformers import PreTrainedModel, ProcessorMixin

from adafv.analysis.first_hit import FirstHit, check_has_first_hit, first_hits
from adafv.analysis.signals import (
    chance,
    distinct,
    llm_attention,
    measured_layers,
    mutual_attention,
    similarity,
)
from adafv.analysis.sources import Source
from adafv.analysis.statistics import Array, area_under_curve, profile
from adafv.core.encode import encode, reask
from adafv.core.pruner import Pruner
from adafv.core.signals import SALIENCY, Signal
from adafv.core.visual_tokens import Encoding
from adafv.data.sample import Question, Sample
from adafv.evaluation.boxes import distances, patches
from adafv.families import check_has_grid
from adafv.methods import TextToImage, from_spec
from adafv.models.boilerplate import boilerplate
from adafv.models.prompting import build_batch, check_question
from adafv.utils.checks import checked

__all__ = [
    "CHANCE",
    "CONTENT",
    "COSINE",
    "DISTINCT",
    "MUTUAL",
    "RECEIVED",
    "RELEVANCE",
    "TOWER",
    "TRUTH",
    "Analysis",
    "Finding",
    "Findings",
]

COSINE = "T2I similarity"
RELEVANCE = "T2I attention"
TOWER = "saliency"
CHANCE = "random"
CONTENT = ", content words"
"""Ends the name of a signal that reads content words alone.

They are what `adafv.models.boilerplate.boilerplate` leaves.
"""
MUTUAL = "tokens to each other"
DISTINCT = "distinctness"
RECEIVED = {
    "received, first layer": Signal("received", 0.0),
    "received, middle layer": Signal("received", 0.5),
    "received, features' layer": Signal("received"),
}
"""These stand for saliency in a tower without CLS; `DISTINCT`, where no attention is observable."""
TRUTH = "related tokens"


@dataclass(frozen=True)
class Finding:
    """The evidence of one question. Dicts are by name of the signal, `first_hit` by method.

    Attributes:
        suite, image: what was asked about.
        visual_tokens, related_tokens: N, and how many of them the question is about.
        thumbnail: where it begins and ends among the N tokens, 0 to 1; both 0 without one.
        auc: of telling related tokens from the others.
        position, centre: see `profile`; `TRUTH` stands for the related tokens themselves.
        similarity: the cosines of the related tokens, and those of the others.
        first_hit: tokens to keep until one is related.
    """

    suite: str
    image: str
    visual_tokens: int
    related_tokens: int
    thumbnail: tuple[float, float]
    auc: dict[str, float]
    position: dict[str, Array]  # (BINS,) each
    centre: dict[str, float]
    similarity: tuple[Array, Array]
    first_hit: dict[str, FirstHit]


@dataclass(frozen=True)
class Findings:
    """All findings, and for each suite how many questions were left out, by reason."""

    questions: list[Finding] = field(default_factory=list)
    left_out: dict[str, Counter[str]] = field(default_factory=dict)


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
            yield _finding(
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


def _finding(
    suite: str,
    image: str,
    crop: Array,
    related: Array,
    scores: dict[str, Array],
    hits: dict[str, FirstHit],
) -> Finding:
    """Reduce the scores (N,) of a question to what the figures show."""
    position = {}
    centre = {}
    for name, score in scores.items():
        # cosines may be negative, and attention in the tower is shown by AUC alone
        if not name.startswith((COSINE, "received")):
            position[name], centre[name] = profile(score)
    position[TRUTH], centre[TRUTH] = profile(related)

    auc = {}
    for name, score in scores.items():
        auc[name] = area_under_curve(related, score)
    return Finding(
        suite=suite,
        image=image,
        visual_tokens=len(related),
        related_tokens=int(related.sum()),
        thumbnail=_thumbnail(crop),
        auc=auc,
        position=position,
        centre=centre,
        similarity=(scores[COSINE][related], scores[COSINE][~related]),
        first_hit=hits,
    )


def _thumbnail(crop: Array) -> tuple[float, float]:
    """Return where the thumbnail begins and ends among tokens of these crops (N,), 0 to 1.

    Crop 0 is the thumbnail wherever it comes: first in LLaVA, last in InternVL. Alone it is all
    there is, and not all models have one.
    """
    tokens = np.flatnonzero(crop == 0)
    if not crop.max() or not len(tokens):
        return 0.0, 0.0
    return float(tokens[0] / len(crop)), float((tokens[-1] + 1) / len(crop))


def _check(processor: ProcessorMixin, suite: str, question: Question) -> None:
    """Refuse a question that the model cannot be asked, with its suite."""
    try:
        check_question(processor, question.text)
    except ValueError as error:
        raise ValueError(f"{suite}, question {question.text!r}: {error}") from None
