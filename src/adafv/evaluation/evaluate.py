"""Accuracy of methods at budgets: every question of a suite, dense, blind and pruned, from one pass
of the tower.
"""

import difflib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from tqdm import tqdm
from transformers import PreTrainedModel, ProcessorMixin

from adafv import __version__
from adafv.data import suites
from adafv.data.scenes import SPLITS
from adafv.evaluation.answering import Answering, Configuration, chunks, configured
from adafv.evaluation.answers import AnswerLog, Key
from adafv.models.boilerplate import boilerplate
from adafv.models.load import fingerprint
from adafv.utils.checks import checked

__all__ = ["Evaluation"]


@checked
@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What to compare on what. Dense (`none`, keep 1) and blind (keep 0) always take part.

    Args:
        methods: as `adafv.methods.from_spec` reads them, e.g. "adafv" or
            "adafv:reserve=0.5:skip=template", or "oracle" (left out where a suite has no boxes).
        keeps: shares of the visual tokens, 0 < keep <= 1; 1 is the dense model, once for all
            methods.
        suites: names in `adafv.data.suites.SUITES`.
        limit: questions of each suite; None: all.
        seed: of the suites that are drawn.
        split: of the suites; choices are made on "validation", figures reported on "test".
        batch_size: prompts that the language model reads at once; about as many are encoded at
            once.
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
                raise ValueError(
                    f"{name} is an empty list: pass at least one, e.g. adafv, 0.1 or scenes"
                )
        for suite in self.suites:
            if suite not in suites.SUITES:
                close = difflib.get_close_matches(suite, suites.SUITES, n=1, cutoff=0.5)
                hint = (
                    f"did you mean {close[0]!r}?"
                    if close
                    else f"there are {', '.join(suites.SUITES)}"
                )
                raise ValueError(f"suite {suite!r} is unknown: {hint}")
        if self.split not in SPLITS:
            raise ValueError(f"split={self.split!r} is unknown: pass one of {', '.join(SPLITS)}")
        _ = self.configurations

    @cached_property
    def configurations(self) -> list[Configuration]:
        """Dense and blind, then each method at each budget; `skip=template` skips nothing, for want
        of a processor.
        """
        return self._configured()

    def _configured(self, template: Callable[[], Iterable[int]] = tuple) -> list[Configuration]:
        return configured(self.methods, self.keeps, template)

    @property
    def counts(self) -> dict[str, int]:
        """How many questions are asked of each suite."""
        return {suite: suites.suite_length(suite, self.limit) for suite in self.suites}

    @property
    def places(self) -> list[tuple[str, str, float]]:
        """Suite, method and keep of everything that is measured."""
        return [(suite, c.method, c.keep) for suite in self.suites for c in self.configurations]

    @cached_property
    def left_out(self) -> dict[tuple[str, float], str]:
        """Methods and budgets that could not be met on this model, each with its reason; known
        after `run`.
        """
        return {}

    def run(
        self,
        model: PreTrainedModel,
        processor: ProcessorMixin,
        out: str | Path,
        *,
        name: str,
        progress: bool = False,
        beside: Iterable[tuple[str, str, float]] = (),
    ) -> list[dict[str, Any]]:
        """Answer what has no answer in `out` yet.

        Args:
            out: folder for `answers.jsonl` and `settings.json`.
            name: of the model; a folder is only taken up by a run of the same model, dtype and
                seed.
            progress: a bar on stderr.
            beside: suite, method and keep of earlier runs, whose answers to the same questions are
                returned, too.

        Returns:
            One record per question of the suites and configuration: suite, id, question (its
                index), type, method,
            keep, visual_tokens, kept_tokens, answer, truth, correct, seconds (selection, prefill
            and decoding, its
            share of the batch's; without the vision tower). None of what is `left_out`.

        Raises:
            ValueError: see `AnswerLog`.
        """
        asked: list[Key] = []
        configurations = self._configured(lambda: boilerplate(processor))
        with AnswerLog(out, self._settings(model, name)) as log:
            answering = Answering(
                model,
                processor,
                log,
                configurations,
                _judged,
                self.batch_size,
                self.max_new_tokens,
                self.left_out,
            )
            for suite in dict.fromkeys(self.suites):
                total = suites.suite_length(suite, self.limit)
                with tqdm(
                    total=total, desc=suite, unit="question", disable=not progress, leave=True
                ) as bar:
                    questions = suites.load_suite(suite, self.limit, self.seed, self.split)
                    for samples in chunks(questions, self.batch_size):
                        asked += answering.answer(suite, samples)
                        bar.update(sum(len(sample.questions) for sample in samples))
            return answering.records([*asked, *_answered(log, asked, beside)])

    def _settings(self, model: PreTrainedModel, name: str) -> dict[str, Any]:
        return {
            "adafv": __version__,
            "model": name,
            "weights": fingerprint(model),
            "dtype": str(model.dtype).removeprefix("torch."),
            "device": model.device.type,
            **{key: getattr(self, key) for key in ("seed", "split", "max_new_tokens")},
        }


def _answered(
    log: AnswerLog, asked: Iterable[Key], beside: Iterable[tuple[str, str, float]]
) -> list[Key]:
    """Under which of some other configurations all the questions have answers already: their keys."""
    questions = dict.fromkeys(key[:3] for key in asked)
    found: list[Key] = []
    for suite, name, keep in beside:
        keys = [(*question, name, keep) for question in questions if question[0] == suite]
        if all(key in log for key in keys):
            found += keys
    return found


def _judged(question: Any, answer: dict[str, Any]) -> dict[str, Any]:
    truth = question.answer
    correct = answer["answer"].strip().casefold() == truth.strip().casefold()
    return {"type": question.type, **answer, "truth": truth, "correct": correct}
