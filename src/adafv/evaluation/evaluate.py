"""Accuracy of methods at budgets: every question dense, blind and pruned, from one pass."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from tqdm import tqdm
from transformers import PreTrainedModel, ProcessorMixin

from adafv.data import suites
from adafv.data.sample import Question, Sample
from adafv.data.scenes import SPLITS
from adafv.evaluation.answer_log import AnswerLog, Key
from adafv.evaluation.answering import (
    Answering,
    Answers,
    Configuration,
    chunks,
    configured,
    settings_of,
)
from adafv.evaluation.askable import check_questions
from adafv.evaluation.own import (
    ImageFile,
    check_suite,
    file_of,
    is_own,
    name_of,
    own_images,
    own_samples,
)
from adafv.evaluation.workers import Workers
from adafv.models.boilerplate import boilerplate
from adafv.models.vocabulary import warn_of_photograph
from adafv.utils.checks import checked

__all__ = ["Evaluation", "Findings"]


@checked
@dataclass(frozen=True)
class Findings:
    """The findings of an evaluation.

    Attributes:
        records: one per question of the suites and configuration: suite, id, question (its index),
            type, method, keep, visual_tokens, kept_tokens, answer, truth, correct, seconds
            (selection, prefill and decoding, its share of the batch's; without the vision tower).
        left_out: suites, methods and budgets that cannot be met on them, each with its reason.
        outdated: those of earlier runs in the folder that answered other questions.
    """

    records: list[dict[str, Any]]
    left_out: dict[tuple[str, str, float], str]
    outdated: set[tuple[str, str, float]]


@checked
@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """A comparison of methods on suites; dense (`none`, keep 1) and blind (keep 0) take part.

    Args:
        methods: as `adafv.methods.from_spec` reads them, e.g. "adafv" or
            "adafv:reserve=0.5:skip=template", or "oracle" (left out where a suite has no boxes).
        keeps: shares of the visual tokens, 0 < keep <= 1; 1 is the dense model, once for all
            methods.
        suites: names in `adafv.data.suites.SUITES`, or paths of own questions, see
            `adafv.evaluation.own`.
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
        # counts below 1
        for name in ("limit", "batch_size", "max_new_tokens"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"{name}={value} is too few: pass 1 or more")
        # seeds of drawn suites count up from here
        if self.seed < 0:
            raise ValueError(f"seed={self.seed} is negative: pass 0 or more")
        # nothing to measure
        for name in ("methods", "keeps", "suites"):
            if not getattr(self, name):
                raise ValueError(
                    f"{name} is an empty list: pass at least one, e.g. adafv, 0.1 or scenes"
                )
        for suite in self.suites:
            check_suite(suite)
        # own questions are read, and what is wrong with them said, before a model is loaded
        _ = self.own
        names = Counter(map(name_of, dict.fromkeys(self.suites)))
        for name, count in names.items():
            if count > 1:
                raise ValueError(f"two suites are called {name!r}: give their files other names")
        if self.split not in SPLITS:
            raise ValueError(f"split={self.split!r} is unknown: pass one of {', '.join(SPLITS)}")
        # unknown methods are refused before a model is loaded
        _ = self.configurations

    @cached_property
    def configurations(self) -> list[Configuration]:
        """Dense and blind, then each method at each budget.

        Here `skip=template` skips nothing, for want of a processor.
        """
        return self._configured()

    def _configured(self, template: Callable[[], Iterable[int]] = tuple) -> list[Configuration]:
        return configured(self.methods, self.keeps, template)

    @cached_property
    def own(self) -> dict[str, list[ImageFile]]:
        """The images of each suite of own questions, which were opened once to be checked."""
        return {suite: own_images(suite) for suite in self.suites if is_own(suite)}

    @property
    def files(self) -> list[Path]:
        """The files that own questions are read from."""
        found = []
        for suite, images in self.own.items():
            found.append(file_of(suite))
            found += [Path(image.path) for image in images]
        return found

    @property
    def counts(self) -> dict[str, int]:
        """By suite, how many questions are asked."""
        found = {}
        for suite in self.suites:
            if suite in self.own:
                asked = sum(len(image.questions) for image in self.own[suite])
                found[name_of(suite)] = asked if self.limit is None else min(asked, self.limit)
            else:
                found[suite] = suites.suite_length(suite, self.limit)
        return found

    @property
    def measured(self) -> list[tuple[str, str, float]]:
        """Suite, method and keep of everything that is measured."""
        found = []
        for suite in self.suites:
            for c in self.configurations:
                found.append((name_of(suite), c.method, c.keep))
        return found

    def questions(self, count: int = 50) -> list[str]:
        """Return the first questions of each suite."""
        texts = []
        for suite in self.suites:
            own: list[str] = []
            for sample in self._samples(suite):
                own += [question.text for question in sample.questions]
                if len(own) >= count:
                    break
            texts += own[:count]
        return texts

    def run(
        self,
        model: PreTrainedModel,
        processor: ProcessorMixin,
        out: str | Path,
        *,
        name: str,
        progress: bool = False,
        earlier: Iterable[tuple[str, str, float]] = (),
    ) -> Findings:
        """Answer what has no answer in `out` yet.

        Args:
            out: folder for `answers.jsonl` and `settings.json`.
            name: of the model; a folder is only taken up by a run of the same model, dtype and
                seed.
            progress: a bar on stderr.
            earlier: suite, method and keep of earlier runs, whose answers to the same questions
                count, too.

        Raises:
            ValueError: see `opened`.
        """
        with self.opened(model, processor, out, name) as log:
            return self.answer(model, processor, log, name=name, progress=progress, earlier=earlier)

    def opened(
        self, model: PreTrainedModel, processor: ProcessorMixin, out: str | Path, name: str
    ) -> AnswerLog:
        """Return the log of the answers in `out`; until it is closed no other run writes there.

        Raises:
            ValueError: a question that the model cannot be asked; see also `AnswerLog`.
        """
        for suite, images in self.own.items():
            check_questions(images, file_of(suite), processor)
        return AnswerLog(out, self._settings(model, processor, name))

    def answer(
        self,
        model: PreTrainedModel,
        processor: ProcessorMixin,
        log: AnswerLog,
        *,
        name: str,
        progress: bool = False,
        earlier: Iterable[tuple[str, str, float]] = (),
        workers: Workers | None = None,
    ) -> Findings:
        """Do as `run`, with a log that is open.

        Args:
            workers: processes that answer in place of this one.
        """
        asked: list[Key] = []
        answering = self.answering(model, processor, log)
        for suite in dict.fromkeys(self.suites):
            asked += self._asked(answering, suite, name, progress, workers)
        # earlier runs in the folder count where they have answered all of these questions
        earlier = list(earlier)
        again = _answered(log, asked, earlier)
        return Findings(
            answering.records([*asked, *again]),
            answering.left_out,
            _outdated(log, {*asked, *again}, earlier),
        )

    def answering(
        self, model: PreTrainedModel, processor: ProcessorMixin, log: Answers
    ) -> Answering:
        """Return what answers the questions that a log lacks."""
        # now there is a processor to know the chat template by
        configurations = self._configured(lambda: boilerplate(processor))
        return Answering(
            model,
            processor,
            log,
            configurations,
            _judged,
            self.batch_size,
            self.max_new_tokens,
        )

    def _asked(
        self,
        answering: Answering,
        suite: str,
        model: str,
        progress: bool,
        workers: Workers | None,
    ) -> list[Key]:
        """Answer the questions of a suite; return the keys of the answers."""
        asked: list[Key] = []
        name = name_of(suite)
        boxes = self._has_boxes(suite)
        todo: Iterable[Sequence[Sample]] = chunks(self._samples(suite), self.batch_size)
        if workers is not None:
            # what they have answered is in the log, and not answered again below
            todo = workers.answered(answering, name, todo, boxes)
        with tqdm(total=self.counts[name], desc=name, unit="question", disable=not progress) as bar:
            for chunk in todo:
                # drawn suites of larger images are beyond the embedded model, too, and known to be
                if suite in self.own:
                    for sample in chunk:
                        warn_of_photograph(sample.image, model)
                asked += answering.answer(name, chunk, boxes)
                bar.update(sum(len(sample.questions) for sample in chunk))
        return asked

    def _has_boxes(self, suite: str) -> bool:
        """Return whether any question says where to look; of a drawn suite the first ones tell."""
        images: Sequence[ImageFile | Sample]
        images = self.own.get(suite) or [next(self._samples(suite))]
        return any(question.boxes for image in images for question in image.questions)

    def _samples(self, suite: str) -> Iterator[Sample]:
        """Return the images of a suite with their questions."""
        if suite in self.own:
            return own_samples(self.own[suite], self.limit)
        return suites.load_suite(suite, self.limit, self.seed, self.split)

    def _settings(
        self, model: PreTrainedModel, processor: ProcessorMixin, name: str
    ) -> dict[str, Any]:
        # neither methods nor budgets: a folder may collect them run by run
        return settings_of(
            model,
            processor,
            name,
            seed=self.seed,
            split=self.split,
            max_new_tokens=self.max_new_tokens,
        )


def _answered(
    log: AnswerLog, asked: Iterable[Key], earlier: Iterable[tuple[str, str, float]]
) -> list[Key]:
    """Return the keys of other configurations under which all the questions have answers."""
    questions = dict.fromkeys(key[:3] for key in asked)
    found: list[Key] = []
    for suite, name, keep in earlier:
        # all or none: half a suite would not compare with the others
        keys = [(*question, name, keep) for question in questions if question[0] == suite]
        if log.records.keys() >= set(keys):
            found += keys
    return found


def _outdated(
    log: AnswerLog, current: set[Key], earlier: Iterable[tuple[str, str, float]]
) -> set[tuple[str, str, float]]:
    """Return which earlier configurations have answered, but questions as they were before."""
    asked = {suite for suite, *_ in current}
    measured = {(suite, name, keep) for suite, _, _, name, keep in current}
    logged = {(suite, name, keep) for suite, _, _, name, keep in log.records}
    return {entry for entry in earlier if entry[0] in asked and entry in logged - measured}


def _judged(question: Question, answer: dict[str, Any]) -> dict[str, Any]:
    """Return the record of an answer: with the truth, and if it is right."""
    correct = question.accepts(answer["answer"])
    return {"type": question.type, **answer, "truth": question.answer, "correct": correct}
