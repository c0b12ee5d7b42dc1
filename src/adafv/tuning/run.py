"""Tuning: a method and budget that hold, chosen on half of the images, measured on the other."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from tqdm import tqdm
from transformers import PreTrainedModel, ProcessorMixin

from adafv.core.pruner import Pruner
from adafv.data.sample import Question
from adafv.evaluation.answer_log import AnswerLog, Key
from adafv.evaluation.answering import Answering, Configuration, chunks, configured, settings_of
from adafv.evaluation.askable import check_questions
from adafv.evaluation.oracle import Oracle
from adafv.evaluation.own import ImageFile
from adafv.models.boilerplate import boilerplate
from adafv.tuning.pick import (
    CHOOSING,
    REPORTING,
    Row,
    answers_of,
    choose,
    effects_in,
    is_candidate,
    rows_of,
)
from adafv.tuning.questions import halves, images_of
from adafv.tuning.retention import needed
from adafv.utils.checks import checked

__all__ = ["KEEPS", "METHODS", "Findings", "Tuning"]

METHODS = ("adafv", "adafv+", "fastervlm", "uniform", "resize")
# from the largest budget on, as they are gone through
KEEPS = (0.5, 0.35, 0.25, 0.15, 0.1, 0.05)
# the suite that a user's own questions make in the log
SUITE = "own"


@dataclass(frozen=True)
class Findings:
    """The findings of a tuning.

    Attributes:
        rows: see `adafv.tuning.pick.rows_of`; first those of the half that the choice was made on.
        chosen: the row, on the other half, of what was chosen on the first; None: nothing was.
        pruner: the method at its budget, if it holds there.
        left_out: methods and budgets that cannot be met on this model, each with its reason.
    """

    rows: list[Row]
    # on the other half
    chosen: Row | None = None
    pruner: Pruner | None = None
    left_out: dict[tuple[str, float], str] = field(default_factory=dict)


@checked
@dataclass(frozen=True, kw_only=True)
class Tuning:
    """The smallest budget, and its method, that holds a retention on a user's own questions.

    Retention is the right answers of a pruned model over those of the dense one; an answer is right
    that is the truth, or, where the line has none, the dense model's own answer, as
    `adafv.data.judging.normalised` compares them. The images are split in half at random. Methods
    and budgets are compared on one half: a budget holds if the lower end of the 95 % interval of
    its retention is `min_retention` at least. For each method the budgets are gone through from the
    largest on, up to the first that does not hold, so that no small one is taken for one lucky
    draw. The smallest budget of all methods is chosen; among equals the method that retains most,
    shrunk images (`resize`) among the methods. It then answers the
    other half, which had no say in the choice: these figures are the ones to quote, and it counts
    as found if it retains `min_retention` there, too.

    Args:
        data: the questions, see `adafv.evaluation.own.read_images`.
        min_retention: above 0 and below 1, which no sample could prove.
        methods: as `adafv.methods.from_spec` reads them.
        keeps: shares of the visual tokens, 0 < keep < 1.
        seed: of the split.
        batch_size: prompts that the language model reads at once; about as many images are
            encoded at once.
        max_new_tokens: length of an answer; where nothing but agreement with the dense model's
            counts, short ones say more than long ones, of which one word differs easily.

    Raises:
        ValueError: an argument out of range, an unknown method, or lines that `read_images`
            refuses.
    """

    data: Path
    min_retention: float = 0.98
    methods: Sequence[str] = METHODS
    keeps: Sequence[float] = KEEPS
    seed: int = 0
    batch_size: int = 16
    max_new_tokens: int = 16

    def __post_init__(self) -> None:
        if not 0 < self.min_retention < 1:
            raise ValueError(
                f"min_retention={self.min_retention} is not a share that a sample can prove: "
                "pass more than 0 and less than 1, e.g. 0.98 (98% on the command line)"
            )
        # counts below 1
        for name in ("batch_size", "max_new_tokens"):
            if (value := getattr(self, name)) < 1:
                raise ValueError(f"{name}={value} is too few: pass 1 or more")
        if Oracle.name in self.methods:
            raise ValueError(
                f"{Oracle.name} is told where the answer lies and can be no choice: leave it out"
            )
        # dense and blind take part in any case
        if len(configured(self.methods, self.keeps)) == len(configured((), ())):
            raise ValueError(
                "nothing to choose from: pass methods other than none, and budgets below 1"
            )
        # a bad line is refused before a model is loaded
        _ = self.images

    @cached_property
    def images(self) -> list[ImageFile]:
        """The questions, by image."""
        return images_of(self.data)

    @cached_property
    def split(self) -> dict[str, list[ImageFile]]:
        """The half for the choice and the one for the report."""
        # random, but the same for the same seed and file
        return dict(zip((CHOOSING, REPORTING), halves(self.images, self.seed), strict=True))

    @property
    def questions(self) -> int:
        """The number of questions."""
        return sum(len(image.questions) for image in self.images)

    @property
    def with_answer(self) -> int:
        """The number of questions that come with the truth."""
        count = 0
        for image in self.images:
            count += sum(bool(question.answer) for question in image.questions)
        return count

    @property
    def unanswered(self) -> str | None:
        """A sentence if there are questions without the truth, else None."""
        if self.with_answer == self.questions:
            return None
        return (
            f"{self.with_answer} of {self.questions} questions have an answer; for the rest the "
            "dense model's own counts"
        )

    @property
    def shortage(self) -> str | None:
        """A sentence if there are too few lines to prove the retention, else None.

        That is known before anything is answered.
        """
        # each half has to be large enough
        lacking = 2 * needed(self.min_retention) - self.questions
        if lacking <= 0:
            return None
        return (
            f"{self.questions} lines are too few to show a retention of {self.min_retention:.4g}, "
            f"even if no answer differs: add {lacking} at the very least; until then this only "
            "draws the trade-off"
        )

    def run(
        self,
        model: PreTrainedModel,
        processor: ProcessorMixin,
        folder: str | Path,
        *,
        name: str,
        progress: bool = False,
    ) -> Findings:
        """Answer what has no answer in `folder` yet, and choose.

        Args:
            folder: for `answers.jsonl` and `settings.json`. Answers of an earlier run on the
                same model are used, whatever its methods, budgets and retention, and lines may have
                come on at the end of the data since.
            name: of the model.
            progress: bars on stderr, and before them lines on questions that have no answer or are
                too few.

        Raises:
            ValueError: a question that the model cannot be asked; a dense model that is never
                right; other lines than those that `folder` has answers to; see also `AnswerLog`.
        """
        check_questions(self.images, self.data, processor)
        left_out: dict[tuple[str, str, float], str] = {}
        own = {"questions": SUITE, "max_new_tokens": self.max_new_tokens}
        with AnswerLog(folder, settings_of(model, processor, name, **own)) as log:
            self._compare(log)
            # said at once, not after hours
            for sentence in (self.unanswered, self.shortage):
                if progress and sentence:
                    tqdm.write(f"adafv: {sentence}", file=sys.stderr)

            def answers(half: str, configurations: list[Configuration]) -> Any:
                # both halves fill the same log, and the same list of what is left out
                answering = Answering(
                    model,
                    processor,
                    log,
                    configurations,
                    _record,
                    self.batch_size,
                    self.max_new_tokens,
                    left_out,
                )
                return answers_of(half, self.split[half], self._answered(answering, half, progress))

            # one half: all methods and budgets
            configurations = configured(self.methods, self.keeps, lambda: boilerplate(processor))
            found = answers(CHOOSING, configurations)
            effects = effects_in(found)
            rows = rows_of(CHOOSING, found, effects, self.min_retention)
            if not any(map(is_candidate, rows)):
                reason = next(iter(left_out.values()))
                raise ValueError(f"none of the budgets can be met, the first because: {reason}")

            # the choice
            best = choose(rows)
            if best is None:
                return Findings(rows, left_out=_of_both(left_out))
            chosen_name = (best["method"], best["keep"])
            [chosen] = [c for c in configurations if (c.method, c.keep) == chosen_name]

            # the other half: the choice alone, with the same design effects
            reported = answers(REPORTING, [*configured((), ()), chosen])
            rows += rows_of(REPORTING, reported, effects, self.min_retention)
            if chosen_name in _of_both(left_out):
                raise ValueError(
                    f"{best['method']} was chosen and cannot answer the other half: "
                    f"{_of_both(left_out)[chosen_name]}"
                )
        # the choice was made by the interval's end; here the estimate decides
        holds = rows[-1]["retention"] >= self.min_retention
        return Findings(rows, rows[-1], chosen.pruner if holds else None, _of_both(left_out))

    def _answered(self, answering: Answering, half: str, progress: bool) -> list[dict[str, Any]]:
        """Answer the questions of a half, and return the records of all of its answers."""
        images = self.split[half]
        total = sum(len(image.questions) for image in images)
        keys: list[Key] = []
        with tqdm(total=total, desc=half, unit="question", disable=not progress) as bar:
            # images are opened when their turn comes, so that memory does not grow with the file
            for samples in chunks(map(ImageFile.sample, images), self.batch_size):
                keys += answering.answer(SUITE, samples)
                bar.update(sum(len(sample.questions) for sample in samples))
        return answering.records(keys)

    def _compare(self, log: AnswerLog) -> None:
        """Refuse answers to other questions than those that the data asks by now."""
        asked = {}
        for image in self.images:
            for index, question in enumerate(image.questions):
                asked[image.key, index] = question.text

        for record in log.records.values():
            before = record["text"]
            # what is no longer asked does no harm
            now = asked.get((record["id"], record["question"]), before)
            if now != before:
                raise ValueError(
                    f"{log.path} has the answer to {before!r} where {self.data} asks {now!r}: "
                    "pass another --out; only lines at the end may be new"
                )


def _record(question: Question, answer: dict[str, Any]) -> dict[str, Any]:
    """Return the record of an answer: the truth is looked at later, it may change."""
    return {"text": question.text, **answer}


def _of_both(left_out: dict[tuple[str, str, float], str]) -> dict[tuple[str, float], str]:
    """Return what is left out of either half, by method and keep."""
    return {(method, keep): reason for (_, method, keep), reason in left_out.items()}
