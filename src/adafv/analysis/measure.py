"""The measuring: every question with boxes, its signals against its boxes, its methods until they
meet one.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm
from transformers import PreTrainedModel, ProcessorMixin

from adafv.analysis.first_hit import Fewest, fewest
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
from adafv.evaluation.boxes import centers, distances
from adafv.families import check_placed
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

COSINE, RELEVANCE, TOWER, CHANCE = "T2I similarity", "T2I attention", "saliency", "random"
CONTENT = ", content words"
"""What follows the name of a signal whose words are those that
`adafv.models.boilerplate.boilerplate` leaves.
"""
MUTUAL, DISTINCT = "tokens to each other", "distinctness"
RECEIVED = {
    "received, first layer": Signal("received", 0.0),
    "received, middle layer": Signal("received", 0.5),
    "received, features' layer": Signal("received"),
}
"""What stands for saliency in a tower without CLS; `DISTINCT` where no attention can be observed at
all.
"""
TRUTH = "related tokens"


@dataclass(frozen=True)
class Finding:
    """What one question showed. Dicts are by name of the signal, `fewest` by method.

    Attributes:
        suite, image: what was asked about.
        visual_tokens, related_tokens: N, and how many of them the question is about.
        thumbnail: share of the N tokens that are the thumbnail's; 0 for a single crop.
        auc: of telling related tokens from the rest.
        position, centre: see `profile`; `TRUTH` stands for the related tokens themselves.
        similarity: the cosines of the related tokens, and those of the rest.
        fewest: tokens to keep until one is related.
    """

    suite: str
    image: str
    visual_tokens: int
    related_tokens: int
    thumbnail: float
    auc: dict[str, float]
    position: dict[str, Array]
    centre: dict[str, float]
    similarity: tuple[Array, Array]
    fewest: dict[str, Fewest]


@dataclass(frozen=True)
class Findings:
    """All findings, and for each suite how many questions were left out, by reason."""

    questions: list[Finding] = field(default_factory=list)
    left_out: dict[str, Counter[str]] = field(default_factory=dict)


@checked
@dataclass(frozen=True, kw_only=True)
class Analysis:
    """What to measure on what.

    Args:
        sources: where the questions come from.
        methods: as `adafv.methods.from_spec` reads them, for the fewest tokens; those that choose
            before the language model.
        seed: of the random control.
        batch_size: prompts that the language model reads at once; about as many are encoded at
            once.

    Raises:
        ValueError: an unknown method, one that keeps everything or chooses inside the language
            model, an empty list, or a batch size below 1.
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
        _ = self.pruners

    @cached_property
    def pruners(self) -> dict[str, Pruner]:
        """The methods; their own budget is not used."""
        return self._pruners(tuple)

    def _pruners(self, template: Callable[[], Iterable[int]]) -> dict[str, Pruner]:
        found = {
            name: from_spec(name, template, tokens=None if name == "none" else 1)
            for name in self.methods
        }
        for name, pruner in found.items():
            if name == "none":
                raise ValueError(
                    "method 'none' keeps every token, there is nothing to count: leave it out"
                )
            if type(pruner).between_layers is not Pruner.inside:
                raise ValueError(
                    f"method {name!r} chooses inside the language model, not before it: leave it out"
                )
        return found

    def run(
        self, model: PreTrainedModel, processor: ProcessorMixin, *, progress: bool = False
    ) -> Findings:
        """Measure every question that has boxes, with visual tokens inside them and outside.

        Raises:
            ValueError: there is no such question, or one holds a control token of the model.
        """
        check_placed(model)
        findings = Findings()
        for source in self.sources:
            out = findings.left_out[source.name] = Counter()
            with tqdm(
                total=source.questions, desc=source.name, unit="question", disable=not progress
            ) as bar:
                for samples in self._chunks(source, out, bar):
                    findings.questions.extend(
                        self._chunk(model, processor, source.name, samples, out)
                    )
                    bar.update(sum(len(sample.questions) for sample in samples))
        if not findings.questions:
            names = ", ".join(source.name for source in self.sources)
            raise ValueError(
                f"no question of {names} has a box with visual tokens inside and outside: pass a scenes suite, or "
                "--boxes with boxes of what must be looked at"
            )
        return findings

    def _chunks(self, source: Source, out: Counter[str], bar: tqdm) -> Iterator[list[Sample]]:
        """Images whose questions with boxes fill a batch; the other questions are counted and
        gone.
        """
        chunk: list[Sample] = []
        for sample in source.samples:
            asked = tuple(q for q in sample.questions if q.boxes)
            if without := len(sample.questions) - len(asked):
                bar.update(without)
                out["no box"] += without
            if asked:
                chunk.append(replace(sample, questions=asked))
            if sum(len(s.questions) for s in chunk) >= self.batch_size:
                yield chunk
                chunk = []
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
        pictures = self._encode(model, processor, suite, samples)
        items = []
        for i, (sample, coordinates) in enumerate(
            zip(samples, pictures.tokens.coordinates, strict=True)
        ):
            places = centers(processor, sample.image.size, coordinates)
            for question in sample.questions:
                about = distances(places, question.boxes).isfinite().any(1).numpy()
                if about.any() and not about.all():
                    items.append((i, question.text, about))
                else:
                    out["every token in the boxes" if about.any() else "no token in the boxes"] += 1
        for start in range(0, len(items), self.batch_size):
            images, texts, marks = zip(*items[start : start + self.batch_size], strict=True)
            asked = [samples[i].image for i in images]
            prompts = build_batch(processor, asked, texts, model.device, model.dtype)
            encoding = reask(model, prompts, pictures, images)
            scores = self._scores(model, processor, prompts, encoding)
            counted = {}
            for name, pruner in self._pruners(lambda: boilerplate(processor)).items():
                skip = frozenset(pruner.skip)
                read = reask(model, prompts, encoding, skip=skip) if skip else encoding
                counted[name] = fewest(pruner, read.tokens, marks)
            for i, (image, text, about) in enumerate(zip(images, texts, marks, strict=True)):
                own = {name: score[i].float().cpu().numpy() for name, score in scores.items()}
                own[CHANCE] = chance(len(about), self.seed, suite, samples[image].id, text)
                tokens = {name: counts[i] for name, counts in counted.items()}
                yield _finding(
                    suite,
                    samples[image].id,
                    encoding.tokens.coordinates[i][:, 0].numpy(),
                    about,
                    own,
                    tokens,
                )

    def _encode(
        self, model: PreTrainedModel, processor: ProcessorMixin, suite: str, samples: list[Sample]
    ) -> Encoding:
        for sample in samples:
            for question in sample.questions:
                _check(processor, suite, question)
        signals = frozenset({SALIENCY, *RECEIVED.values()}).union(
            *(p.signals for p in self.pruners.values())
        )
        first = [sample.questions[0].text for sample in samples]
        inputs = build_batch(
            processor, [s.image for s in samples], first, model.device, model.dtype
        )
        return encode(model, inputs, signals=signals, text=False)

    def _scores(
        self,
        model: PreTrainedModel,
        processor: ProcessorMixin,
        prompts: dict[str, Any],
        encoding: Encoding,
    ) -> dict[str, list[Tensor]]:
        """For each signal, one (N,) tensor per question."""
        tokens, layers = encoding.tokens, measured_layers(encoding.tokens.layers)
        attention = llm_attention(model, prompts, encoding, layers)
        content = reask(model, prompts, encoding, skip=boilerplate(processor)).tokens
        padded = {
            COSINE: similarity(tokens),
            COSINE + CONTENT: similarity(content),
            RELEVANCE: TextToImage(tokens=1).score(tokens),
            RELEVANCE + CONTENT: TextToImage(tokens=1).score(content),
            TOWER: tokens.saliency,
            **{name: tokens.signals[signal] for name, signal in RECEIVED.items()},
            MUTUAL: mutual_attention(tokens),
            DISTINCT: distinct(tokens),
        }
        scores = {
            name: [s[:n] for s, n in zip(score, tokens.counts, strict=True)]
            for name, score in padded.items()
        }
        return scores | {
            f"LLM attention, layer {i + 1}": rows for i, rows in zip(layers, attention, strict=True)
        }


def _finding(
    suite: str,
    image: str,
    crop: Array,
    about: Array,
    scores: dict[str, Array],
    tokens: dict[str, Fewest],
) -> Finding:
    spread = {
        name: profile(score)
        for name, score in scores.items()
        if not name.startswith((COSINE, "received"))
    }
    spread[TRUTH] = profile(about)
    return Finding(
        suite=suite,
        image=image,
        visual_tokens=len(about),
        related_tokens=int(about.sum()),
        thumbnail=float((crop == 0).mean()) if crop.max() else 0.0,
        auc={name: area_under_curve(about, score) for name, score in scores.items()},
        position={name: stretches for name, (stretches, _) in spread.items()},
        centre={name: centre for name, (_, centre) in spread.items()},
        similarity=(scores[COSINE][about], scores[COSINE][~about]),
        fewest=tokens,
    )


def _check(processor: ProcessorMixin, suite: str, question: Question) -> None:
    try:
        check_question(processor, question.text)
    except ValueError as error:
        raise ValueError(f"{suite}, question {question.text!r}: {error}") from None
