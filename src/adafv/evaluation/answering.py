"""Questions on images, answered under many configurations from one pass of the tower."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import PreTrainedModel, ProcessorMixin

from adafv.core.encode import encode
from adafv.core.pruner import BudgetError, Pruner
from adafv.core.turns import remember
from adafv.core.visual_tokens import Encoding
from adafv.data.sample import BLIND, Question, Sample
from adafv.evaluation.answers import AnswerLog, Key
from adafv.evaluation.oracle import Oracle
from adafv.evaluation.prompts import Prompts
from adafv.methods import from_spec, method
from adafv.models.prompting import build_batch
from adafv.utils.checks import checked

__all__ = ["BLIND", "Answering", "Configuration", "chunks", "configured"]


@dataclass(frozen=True)
class Configuration:
    """One line of a comparison: a method at a budget.

    Without a pruner: the blind model, no image in its prompt.
    """

    method: str
    keep: float
    pruner: Pruner | None


@checked
def configured(
    methods: Iterable[str], keeps: Iterable[float], template: Callable[[], Iterable[int]] = tuple
) -> list[Configuration]:
    """Dense and blind, then each method at each budget below 1.

    Args:
        methods: as `adafv.methods.from_spec` reads them, or "oracle".
        keeps: shares of the visual tokens.
        template: gives the ids of `skip=template`; by default there are none, for want of a
            processor.
    """
    fixed = [Configuration("none", 1.0, method("none")), Configuration(BLIND, 0.0, None)]
    keeps = dict.fromkeys(keeps)
    pruned = [
        Configuration(
            name,
            float(keep),
            Oracle(keep=keep) if name == Oracle.name else from_spec(name, template, keep=keep),
        )
        for name in dict.fromkeys(methods)
        if name != "none"
        for keep in keeps
    ]
    return fixed + [c for c in pruned if c.keep != 1]


@dataclass(frozen=True)
class Answering:
    """Answers what a log lacks.

    Args:
        model, processor: that are asked.
        log: of the answers.
        configurations: under which each question is answered.
        record: what an answer to a question is, for the log.
        batch_size: prompts that the language model reads at once.
        max_new_tokens: length of an answer.
        left_out: methods and budgets that cannot be met on this model, each with its reason; filled
            as that shows.
    """

    model: PreTrainedModel
    processor: ProcessorMixin
    log: AnswerLog
    configurations: Sequence[Configuration]
    record: Callable[[Question, dict[str, Any]], dict[str, Any]]
    batch_size: int
    max_new_tokens: int
    left_out: dict[tuple[str, float], str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        remember(self.model, self.processor)

    def answer(self, suite: str, samples: Sequence[Sample]) -> list[Key]:
        """Answer the questions on some images that the log lacks; the keys of all of them."""

        def key(item: tuple[int, int], c: Configuration) -> Key:
            return suite, samples[item[0]].id, item[1], c.method, c.keep

        items = [(i, q) for i, sample in enumerate(samples) for q in range(len(sample.questions))]
        planned = [
            c
            for c in self.configurations
            if c.method != Oracle.name or any(s.things for s in samples)
        ]
        lacking = [
            item
            for item in items
            if any(key(item, c) not in self.log for c in self._possible(planned))
        ]
        if lacking:
            encoding = self._encode(samples)
            for start in range(0, len(lacking), self.batch_size):
                batch = lacking[start : start + self.batch_size]
                asked = [samples[i].questions[q] for i, q in batch]
                prompts = Prompts(
                    self.model,
                    self.processor,
                    encoding,
                    [i for i, _ in batch],
                    list(samples),
                    asked,
                )
                wanted = [
                    c
                    for c in self._possible(planned)
                    if any(key(item, c) not in self.log for item in batch)
                ]
                self.log.append(
                    _placed(key(item, c), self.record(question, answer))
                    for c in wanted
                    for item, question, answer in zip(
                        batch, asked, self._answers(prompts, c), strict=False
                    )
                )
        return [key(item, c) for item in items for c in self._possible(planned)]

    def records(self, keys: Iterable[Key]) -> list[dict[str, Any]]:
        """The answers to what was asked, none twice, none of what is left out."""
        return [
            self.log.records[key] for key in dict.fromkeys(keys) if key[3:] not in self.left_out
        ]

    def _possible(self, configurations: list[Configuration]) -> list[Configuration]:
        return [c for c in configurations if (c.method, c.keep) not in self.left_out]

    @torch.no_grad()
    def _answers(self, prompts: Prompts, c: Configuration) -> list[dict[str, Any]]:
        """The answers of a batch; none where the budget cannot be met."""
        try:
            return prompts.answer(c.pruner, self.max_new_tokens)
        except BudgetError as error:
            self.left_out[c.method, c.keep] = str(error)
            return []

    @torch.no_grad()
    def _encode(self, samples: Sequence[Sample]) -> Encoding:
        pruners = [c.pruner for c in self.configurations if c.pruner]
        questions = [sample.questions[0].text for sample in samples]
        images = [sample.image for sample in samples]
        inputs = build_batch(self.processor, images, questions, self.model.device, self.model.dtype)
        return encode(
            self.model, inputs, signals=frozenset().union(*(p.signals for p in pruners)), text=False
        )


def chunks(samples: Iterable[Sample], batch_size: int) -> Iterator[list[Sample]]:
    """Images whose questions fill a batch."""
    chunk: list[Sample] = []
    for sample in samples:
        if sample.questions:
            chunk.append(sample)
        if sum(len(s.questions) for s in chunk) >= batch_size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _placed(key: Key, record: dict[str, Any]) -> dict[str, Any]:
    return {**dict(zip(("suite", "id", "question", "method", "keep"), key, strict=True)), **record}
