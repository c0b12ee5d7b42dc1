"""Questions on images, answered under many configurations from one pass of the tower."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
import transformers
from transformers import PreTrainedModel, ProcessorMixin

from adafv import __version__
from adafv.core.chat_template import remember
from adafv.core.encode import encode
from adafv.core.pruner import Pruner
from adafv.core.visual_tokens import Encoding
from adafv.data.sample import BLIND, Question, Sample
from adafv.evaluation.answer_log import Key
from adafv.evaluation.contact_sheets import as_videos
from adafv.evaluation.oracle import Oracle
from adafv.evaluation.prepared_images import PreparedImages
from adafv.evaluation.prompts import Prompts
from adafv.methods import from_spec, method
from adafv.models.load import fingerprint, processor_fingerprint
from adafv.ops.budget import BudgetError
from adafv.utils.checks import checked
from adafv.utils.machine import machine_of

__all__ = ["BLIND", "Answering", "Answers", "Configuration", "chunks", "configured", "settings_of"]

Item = tuple[int, int]
"""Which of some images, and which of its questions."""


@dataclass(frozen=True)
class Configuration:
    """One line of a comparison: a method at a budget.

    Without a pruner: the blind model, no image in its prompt.
    """

    method: str
    keep: float
    pruner: Pruner | None  # None: blind


@checked
def configured(
    methods: Iterable[str], keeps: Iterable[float], template: Callable[[], Iterable[int]] = tuple
) -> list[Configuration]:
    """Return dense and blind, then each method at each budget below 1.

    Args:
        methods: as `adafv.methods.from_spec` reads them, or "oracle".
        keeps: shares of the visual tokens.
        template: gives the ids of `skip=template`; by default there are none, for want of a
            processor.
    """
    found = [Configuration("none", 1.0, method("none")), Configuration(BLIND, 0.0, None)]
    keeps = dict.fromkeys(keeps)
    for name in dict.fromkeys(methods):
        if name == "none":
            continue  # it is there already
        for keep in keeps:
            # made at 1 too, so that a bad name or budget is refused
            pruner = _pruner(name, keep, template)
            if keep != 1:
                found.append(Configuration(name, float(keep), pruner))
    return found


def _pruner(name: str, keep: float, template: Callable[[], Iterable[int]]) -> Pruner:
    if name == Oracle.name:
        return Oracle(keep=keep)
    return from_spec(name, template, keep=keep)


@checked
def settings_of(
    model: PreTrainedModel, processor: ProcessorMixin, name: str, **own: Any
) -> dict[str, Any]:
    """Return what must be the same for answers of two runs to belong together.

    Args:
        model, processor: that answer.
        name: of the model.
        own: what else decides the answers.
    """
    return {
        "adafv": __version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "model": name,
        "weights": fingerprint(model),
        "processor": processor_fingerprint(processor),
        "dtype": str(model.dtype).removeprefix("torch."),
        "device": model.device.type,
        "machine": machine_of(model.device)["name"],
        **own,
    }


class Answers(Protocol):
    """Answers that are there, by what they are answers to: an `AnswerLog`, or one in memory."""

    records: dict[Key, dict[str, Any]]

    def append(self, records: Iterable[dict[str, Any]]) -> None:
        """Add answers that are not there yet."""


@dataclass(frozen=True)
class Answering:
    """Answers what a log lacks.

    No `TowerCache` is open meanwhile, as it would find nothing: an image is encoded once for all of
    its questions and configurations, drawn suites share no images, and runs share no memory. Two
    files of own questions about the same images encode them twice.

    Args:
        model, processor: that are asked.
        log: of the answers.
        configurations: under which each question is answered.
        record: what an answer to a question is, for the log.
        batch_size: prompts that the language model reads at once.
        max_new_tokens: length of an answer.
        left_out: suites with the methods and budgets that cannot be met on them, each with its
            reason; filled as that shows.
    """

    model: PreTrainedModel
    processor: ProcessorMixin
    log: Answers
    configurations: Sequence[Configuration]
    record: Callable[[Question, dict[str, Any]], dict[str, Any]]
    batch_size: int
    max_new_tokens: int
    left_out: dict[tuple[str, str, float], str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # pruners that look at turns of a chat need the processor
        remember(self.model, self.processor)

    def answer(self, suite: str, samples: Sequence[Sample], boxes: bool = False) -> list[Key]:
        """Answer the questions on some images that the log lacks; return the keys of all of them.

        Args:
            suite: of the questions.
            samples: images that are encoded together.
            boxes: whether questions of the suite say where to look; without any there is no oracle.
        """
        items: list[Item] = []
        for i, sample in enumerate(samples):
            for index, _ in enumerate(sample.questions):
                items.append((i, index))

        planned = list(self.configurations)
        if not boxes:
            planned = [c for c in planned if c.method != Oracle.name]

        # only what is missing under some configuration is asked
        lacking = [item for item in items if self._lacking(suite, samples, [item], planned)]
        if lacking:
            self._answer_items(suite, samples, lacking, planned)

        # what turned out impossible meanwhile is not among them
        keys = []
        for item in items:
            keys += [_key(suite, samples, item, c) for c in self._possible(suite, planned)]
        return keys

    def _answer_items(
        self,
        suite: str,
        samples: Sequence[Sample],
        items: list[Item],
        planned: list[Configuration],
    ) -> None:
        """Answer questions on some images, each of which is prepared and encoded once."""
        prepared = PreparedImages(self.processor, [sample.image for sample in samples])
        encoding = self._encode(samples, prepared)
        for start in range(0, len(items), self.batch_size):
            batch = items[start : start + self.batch_size]
            self._answer_batch(suite, samples, batch, prepared, encoding, planned)

    def _answer_batch(
        self,
        suite: str,
        samples: Sequence[Sample],
        batch: list[Item],
        prepared: PreparedImages,
        encoding: Encoding,
        planned: list[Configuration],
    ) -> None:
        """Answer a batch of questions under every configuration that lacks one of them."""
        images = []
        asked = []
        for image, index in batch:
            images.append(image)
            asked.append(samples[image].questions[index])
        prompts = Prompts(
            self.model, self.processor, prepared, encoding, images, list(samples), asked
        )

        # a method's largest budget first: one that is nested chooses once for all of them
        lacking = self._lacking(suite, samples, batch, planned)
        methods = [c.method for c in lacking]
        lacking.sort(key=lambda c: (methods.index(c.method), -c.keep))

        records = []
        for c in lacking:
            answers = self._answers(suite, prompts, c)
            if answers is None:
                continue
            for item, question, answer in zip(batch, asked, answers, strict=True):
                key = _key(suite, samples, item, c)
                about = dict(zip(("suite", "id", "question", "method", "keep"), key, strict=True))
                records.append({**about, **self.record(question, answer)})
        # on the disk batch by batch, all configurations together
        self.log.append(records)

    def records(self, keys: Iterable[Key]) -> list[dict[str, Any]]:
        """Return the answers to what was asked, none twice, none of what is left out."""
        found = []
        for key in dict.fromkeys(keys):
            suite, _, _, method, keep = key
            if (suite, method, keep) not in self.left_out:
                found.append(self.log.records[key])
        return found

    def _lacking(
        self,
        suite: str,
        samples: Sequence[Sample],
        items: list[Item],
        planned: list[Configuration],
    ) -> list[Configuration]:
        """Return the configurations under which some of these questions have no answer yet."""
        found = []
        for c in self._possible(suite, planned):
            keys = {_key(suite, samples, item, c) for item in items}
            if not keys <= self.log.records.keys():
                found.append(c)
        return found

    def _possible(self, suite: str, configurations: list[Configuration]) -> list[Configuration]:
        return [c for c in configurations if (suite, c.method, c.keep) not in self.left_out]

    @torch.no_grad()
    def _answers(
        self, suite: str, prompts: Prompts, c: Configuration
    ) -> list[dict[str, Any]] | None:
        """Return the answers of a batch; None where the budget cannot be met."""
        try:
            return prompts.answer(c.pruner, self.max_new_tokens)
        except BudgetError as error:
            # known from the first batch on, and not tried again
            self.left_out[suite, c.method, c.keep] = str(error)
            return None

    @torch.no_grad()
    def _encode(self, samples: Sequence[Sample], prepared: PreparedImages) -> Encoding:
        """Run the tower once for all configurations, with every signal that any of them reads."""
        signals: frozenset[Any] = frozenset()
        for c in self.configurations:
            if c.pruner:
                signals |= c.pruner.signals

        # the question changes later, see `Prompts`; one is needed to make a prompt
        questions = [sample.questions[0].text for sample in samples]
        inputs = prepared.ask(range(len(samples)), questions, self.model.device, self.model.dtype)
        encoding = encode(self.model, inputs, signals=signals, text=False)
        return as_videos(encoding, [sample.frames for sample in samples])


def chunks(samples: Iterable[Sample], batch_size: int) -> Iterator[list[Sample]]:
    """Yield images whose questions fill a batch."""
    chunk: list[Sample] = []
    count = 0
    for sample in samples:
        # an image without questions is not worth the tower's time
        if sample.questions:
            chunk.append(sample)
            count += len(sample.questions)
        if count >= batch_size:
            yield chunk
            chunk = []
            count = 0
    if chunk:
        yield chunk


def _key(suite: str, samples: Sequence[Sample], item: Item, c: Configuration) -> Key:
    image, question = item
    return suite, samples[image].id, question, c.method, c.keep
