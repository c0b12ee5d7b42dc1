"""Accuracy of methods at budgets: every question of a suite, dense, blind and pruned, from one pass of the tower."""

import difflib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm
from transformers import PreTrainedModel, ProcessorMixin

from adafv import __version__
from adafv.ask import build_batch
from adafv.encode import encode
from adafv.encoding import Encoding
from adafv.evaluation import suites
from adafv.evaluation.answers import AnswerLog, Key
from adafv.evaluation.oracle import Oracle
from adafv.evaluation.prompts import Prompts
from adafv.evaluation.scenes import SPLITS
from adafv.load import fingerprint
from adafv.methods import from_spec, method
from adafv.pruner import BudgetError, Pruner
from adafv.text import boilerplate

__all__ = ["BLIND", "Configuration", "Evaluation"]

BLIND = "blind"


@dataclass(frozen=True)
class Configuration:
    """One line of the comparison: a method at a budget. Without a pruner: the blind model, no picture in its prompt."""

    method: str
    keep: float
    pruner: Pruner | None


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What to compare on what. Dense (`none`, keep 1) and blind (keep 0) always take part.

    Args:
        methods: as `adafv.methods.from_spec` reads them, e.g. "adafv" or "adafv:reserve=0.5:skip=template", or "oracle"
            (left out where a suite has no boxes).
        keeps: shares of the visual tokens, 0 < keep <= 1; 1 is the dense model, once for all methods.
        suites: names in `adafv.evaluation.suites.SUITES`.
        limit: questions of each suite; None: all.
        seed: of the suites that are drawn.
        split: of the suites; choices are made on "validation", figures reported on "test".
        batch_size: prompts that the language model reads at once; about as many are encoded at once.
        max_new_tokens: length of an answer.

    Raises:
        ValueError: an unknown name, a keep out of range, or a number below 1.
    """

    methods: Sequence[str]
    keeps: Sequence[float]
    suites: Sequence[str]
    limit: int | None = None
    seed: int = 0
    split: str = "test"
    batch_size: int = 16
    max_new_tokens: int = 16

    def __post_init__(self) -> None:
        for name in ("limit", "batch_size", "max_new_tokens"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"{name}={value} is too few: pass 1 or more")
        if self.seed < 0:
            raise ValueError(f"seed={self.seed} is negative: pass 0 or more")
        for name in ("methods", "keeps", "suites"):
            if not getattr(self, name):
                raise ValueError(f"{name} is an empty list: pass at least one, e.g. adafv, 0.1 or scenes")
        for suite in self.suites:
            if suite not in suites.SUITES:
                close = difflib.get_close_matches(suite, suites.SUITES, n=1, cutoff=0.5)
                hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(suites.SUITES)}"
                raise ValueError(f"suite {suite!r} is unknown: {hint}")
        if self.split not in SPLITS:
            raise ValueError(f"split={self.split!r} is unknown: pass one of {', '.join(SPLITS)}")
        _ = self.configurations

    @cached_property
    def configurations(self) -> list[Configuration]:
        """Dense and blind, then each method at each budget; `skip=template` skips nothing, for want of a processor."""
        return self._configured()

    def _configured(self, template: Callable[[], Iterable[int]] = tuple) -> list[Configuration]:
        fixed = [Configuration("none", 1.0, method("none")), Configuration(BLIND, 0.0, None)]
        pruned = [
            Configuration(
                name, float(keep), Oracle(keep=keep) if name == Oracle.name else from_spec(name, template, keep=keep)
            )
            for name in dict.fromkeys(self.methods)
            if name != "none"
            for keep in dict.fromkeys(self.keeps)
        ]
        return fixed + [c for c in pruned if c.keep != 1]

    @cached_property
    def left_out(self) -> dict[tuple[str, float], str]:
        """Methods and budgets that could not be met on this model, each with its reason; known after `run`."""
        return {}

    def run(
        self, model: PreTrainedModel, processor: ProcessorMixin, out: str | Path, *, name: str, progress: bool = False
    ) -> list[dict[str, Any]]:
        """Answer what has no answer in `out` yet.

        Args:
            out: folder for `answers.jsonl` and `settings.json`.
            name: of the model; a folder is only taken up by a run of the same model, dtype and seed.
            progress: a bar on stderr.

        Returns:
            One record per question of the suites and configuration: suite, id, question (its index), type, method,
            keep, visual_tokens, kept_tokens, answer, truth, correct, seconds (selection, prefill and decoding, its
            share of the batch's; without the vision tower). None of what is `left_out`.

        Raises:
            ValueError: see `AnswerLog`.
        """
        asked: list[Key] = []
        configurations = self._configured(lambda: boilerplate(processor))
        with AnswerLog(out, self._settings(model, name)) as log:
            for suite in dict.fromkeys(self.suites):
                total = suites.suite_length(suite, self.limit)
                with tqdm(total=total, desc=suite, unit="question", disable=not progress, leave=True) as bar:
                    for samples in self._chunks(suite):
                        asked += self._chunk(model, processor, log, suite, samples, configurations)
                        bar.update(sum(len(sample.questions) for sample in samples))
            return [log.records[key] for key in dict.fromkeys(asked) if key[3:] not in self.left_out]

    def _settings(self, model: PreTrainedModel, name: str) -> dict[str, Any]:
        return {
            "adafv": __version__,
            "model": name,
            "weights": fingerprint(model),
            "dtype": str(model.dtype).removeprefix("torch."),
            "device": model.device.type,
            **{key: getattr(self, key) for key in ("seed", "split", "max_new_tokens")},
        }

    def _chunks(self, suite: str) -> Iterator[list[Any]]:
        """Pictures whose questions fill a batch."""
        chunk: list[Any] = []
        for sample in suites.load_suite(suite, self.limit, self.seed, self.split):
            if sample.questions:
                chunk.append(sample)
            if sum(len(s.questions) for s in chunk) >= self.batch_size:
                yield chunk
                chunk = []
        if chunk:
            yield chunk

    def _chunk(
        self,
        model: PreTrainedModel,
        processor: ProcessorMixin,
        log: AnswerLog,
        suite: str,
        samples: list[Any],
        configurations: list[Configuration],
    ) -> list[Key]:
        """Answer the questions on some pictures that the log lacks; the keys of all of them."""

        def key(item: tuple[int, int], c: Configuration) -> Key:
            return suite, samples[item[0]].id, item[1], c.method, c.keep

        items = [(i, q) for i, sample in enumerate(samples) for q in range(len(sample.questions))]
        planned = [c for c in configurations if c.method != Oracle.name or any(s.things for s in samples)]
        lacking = [item for item in items if any(key(item, c) not in log for c in self._possible(planned))]
        if lacking:
            encoding = self._encode(model, processor, samples)
            for start in range(0, len(lacking), self.batch_size):
                batch = lacking[start : start + self.batch_size]
                asked = [samples[i].questions[q] for i, q in batch]
                prompts = Prompts(model, processor, encoding, [i for i, _ in batch], samples, asked)
                wanted = [c for c in self._possible(planned) if any(key(item, c) not in log for item in batch)]
                log.append(
                    _record(key(item, c), question, answer)
                    for c in wanted
                    for item, question, answer in zip(batch, asked, self._answers(prompts, c), strict=False)
                )
        return [key(item, c) for item in items for c in self._possible(planned)]

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
    def _encode(self, model: PreTrainedModel, processor: ProcessorMixin, samples: list[Any]) -> Encoding:
        pruners = [c.pruner for c in self.configurations if c.pruner]
        questions = [sample.questions[0].text for sample in samples]
        inputs = build_batch(processor, [s.image for s in samples], questions, model.device, model.dtype)
        return encode(model, inputs, signals=frozenset().union(*(p.signals for p in pruners)), text=False)


def _record(key: Key, question: Any, answer: dict[str, Any]) -> dict[str, Any]:
    place = dict(zip(("suite", "id", "question", "method", "keep"), key, strict=True))
    truth = question.answer
    correct = answer["answer"].strip().casefold() == truth.strip().casefold()
    return {**place, "type": question.type, **answer, "truth": truth, "correct": correct}
