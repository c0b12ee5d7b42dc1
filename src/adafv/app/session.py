"""What each visitor looks at: an image that is encoded once, its questions, and the answers given
so far.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from threading import RLock
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from transformers import PreTrainedModel, ProcessorMixin

from adafv.app.view import DENSE, Result, View
from adafv.core import turns
from adafv.core.encode import encode, reask
from adafv.core.pruner import Pruner
from adafv.core.signals import SALIENCY
from adafv.core.visual_tokens import Encoding
from adafv.data.cases import CASES, EXPLAINED
from adafv.data.sample import Sample
from adafv.methods import TextToImage, from_spec
from adafv.models.ask import ask_encoded
from adafv.models.boilerplate import boilerplate
from adafv.models.generation import check_answer_length
from adafv.models.images import open_image
from adafv.models.prompting import build_inputs, check_question
from adafv.utils.checks import checked
from adafv.utils.clock import now
from adafv.viz import check_drawable, explained

__all__ = ["VISITORS", "Playground", "Session", "bundled"]

VISITORS = 16
"""Visitors whose images stay in memory; the one who has been quiet for longest goes first."""
QUESTIONS, RESULTS = 2, 256
"""Of one image: questions (this one and the one before) and answers that stay in memory."""

Array = NDArray[Any]
K = TypeVar("K")
V = TypeVar("V")


@dataclass(frozen=True)
class Asked:
    """A question on an encoded image."""

    inputs: dict[str, Any]
    encoding: Encoding
    saliency: Array
    relevance: Array


@dataclass
class Session:
    """What one visitor has in front of them.

    Attributes:
        source: where the image comes from.
        encoding: of the image, with the signals that were asked for so far.
        asked: its last questions, the latest last.
        results: by question, method and share.
    """

    source: str
    image: Image.Image
    encoding: Encoding | None = None
    vision_ms: float = 0.0
    asked: OrderedDict[str, Asked] = field(default_factory=OrderedDict)
    results: OrderedDict[tuple[str, str, float], Result] = field(default_factory=OrderedDict)


class Playground:
    """A model and its visitors' desks. Calls from several threads wait for each other: there is one
    model.

    A desk is a cache: whatever is forgotten is made again when it is asked for.

    Args:
        model, processor: that are asked.
        name: of the model.
        max_new_tokens: the longest answer.
    """

    def __init__(
        self, model: PreTrainedModel, processor: ProcessorMixin, name: str, max_new_tokens: int = 64
    ) -> None:
        check_answer_length(max_new_tokens)
        self.model, self.processor, self.name, self.max_new_tokens = (
            model,
            processor,
            name,
            max_new_tokens,
        )
        turns.remember(model, processor)
        self.desks: OrderedDict[str, Session] = OrderedDict()
        self._lock = RLock()

    def warm_up(self) -> None:
        """Ask once, so that no visitor's times pay for a cold start."""
        self.look("", str(EXPLAINED), bundled(EXPLAINED).questions[0].text, ["adafv"], 0.05)
        self.forget("")

    def image(self, visitor: str, source: str) -> Image.Image:
        """Put an image on a visitor's desk, if it isn't there.

        Args:
            visitor: who asks.
            source: a file, or the number of a bundled image.

        Raises:
            ValueError: a file that `adafv.models.images.open_image` refuses; the desk stays as it
                is.
        """
        with self._lock:
            return self._desk(visitor, source).image

    def look(
        self, visitor: str, source: str, question: str, names: Sequence[str], keep: float
    ) -> View:
        """Ask the dense model and some methods about an image; what was computed before is used
        again.

        Args:
            visitor, source: as in `image`.
            question: what is asked.
            names: the methods, as `adafv.methods.from_spec` reads them.
            keep: share of the visual tokens.

        Raises:
            ValueError: an image, question, method or share that is no good. What only one method
                refuses is said in its own result.
        """
        with self._lock, torch.no_grad():
            desk = self._desk(visitor, source)
            question = check_question(self.processor, question)
            pruners = {DENSE: from_spec(DENSE)}
            for name in names:
                pruners[name] = from_spec(name, self._template, keep=keep)
            try:
                asked, before = self._asked(desk, question, [*pruners.values()])
            except torch.OutOfMemoryError:
                raise ValueError(
                    "the memory of the device is too small for this image: make it smaller"
                ) from None
            results = [
                self._result(desk, asked, question, name, pruner)
                for name, pruner in pruners.items()
            ]
            if before is not None:
                earlier = desk.asked[before]
                pairs = zip(results, pruners.values(), strict=True)
                results = [
                    _compared(result, pruner, self._read(earlier, pruner))
                    for result, pruner in pairs
                ]
            return View(
                image=desk.image,
                question=question,
                keep=keep,
                results=results,
                saliency=asked.saliency,
                relevance=asked.relevance,
                vision_ms=desk.vision_ms,
                before=before,
            )

    def forget(self, visitor: str) -> None:
        """Clear the desk of a visitor who has left."""
        with self._lock:
            self.desks.pop(visitor, None)

    def _desk(self, visitor: str, source: str) -> Session:
        desk = self.desks.get(visitor)
        if desk is None or desk.source != source:
            image = bundled(int(source)).image if source.isdigit() else open_image(source)
            desk = Session(source, image)
        remember(self.desks, visitor, desk, VISITORS)
        return desk

    def _asked(
        self, desk: Session, question: str, pruners: list[Pruner]
    ) -> tuple[Asked, str | None]:
        """The question on the image, whose vision tower runs if a method looks at something not
        read yet.
        """
        wanted = frozenset({SALIENCY}).union(*(pruner.signals for pruner in pruners))
        inputs: dict[str, Any] | None = None
        known = frozenset() if desk.encoding is None else frozenset(desk.encoding.tokens.signals)
        if desk.encoding is None or not wanted <= known:
            inputs = self._inputs(desk, question)
            start = now(self.model.device)
            desk.encoding = encode(self.model, inputs, signals=wanted | known, text=False)
            desk.vision_ms = (now(self.model.device) - start) * 1000
            desk.asked = OrderedDict(
                (q, self._words(desk.encoding, self._inputs(desk, q))) for q in desk.asked
            )
        asked = desk.asked.get(question)
        if asked is None:
            asked = self._words(desk.encoding, inputs or self._inputs(desk, question))
        remember(desk.asked, question, asked, QUESTIONS)
        return asked, next((q for q in desk.asked if q != question), None)

    def _inputs(self, desk: Session, question: str) -> dict[str, Any]:
        return build_inputs(
            self.processor, desk.image, question, self.model.device, self.model.dtype
        )

    def _words(self, image: Encoding, inputs: dict[str, Any]) -> Asked:
        encoding = reask(self.model, inputs, image)
        tokens = encoding.tokens
        return Asked(
            inputs={name: value for name, value in inputs.items() if name not in encoding.consumed},
            encoding=encoding,
            saliency=tokens.saliency[0].float().cpu().numpy(),
            relevance=TextToImage(keep=1.0).score(tokens)[0].cpu().numpy(),
        )

    def _template(self) -> frozenset[int]:
        return boilerplate(self.processor)

    def _read(self, asked: Asked, pruner: Pruner) -> Encoding:
        """A question's encoding, without the words that a method skips."""
        if not pruner.skip:
            return asked.encoding
        return pruner.reask(self.model, asked.inputs, asked.encoding)

    def _result(
        self, desk: Session, asked: Asked, question: str, name: str, pruner: Pruner
    ) -> Result:
        key = (question, name, pruner.keep or 1.0)
        result = desk.results.get(key)
        if result is None:
            result = replace(self._answered(desk, asked, question, pruner), method=name)
        remember(desk.results, key, result, RESULTS)
        return result

    def _answered(self, desk: Session, asked: Asked, question: str, pruner: Pruner) -> Result:
        encoding = self._read(asked, pruner)
        try:
            answer, selection = ask_encoded(
                self.model, self.processor, asked.inputs, encoding, pruner, self.max_new_tokens
            )
        except ValueError as error:
            return Result(pruner.name, note=str(error))
        except torch.OutOfMemoryError:
            return Result(
                pruner.name,
                note="the memory of the device is too small for so many tokens: keep fewer",
            )
        try:
            check_drawable(self.model, pruner)
        except ValueError as error:
            return Result(pruner.name, answer, note=str(error))
        known = desk.results.get((question, DENSE, 1.0))
        dense = known.answer if known and known.answer else answer
        what = explained(
            self.processor, desk.image, question, pruner, encoding, selection, dense, answer
        )
        return Result(pruner.name, answer, what)


def _compared(result: Result, pruner: Pruner, earlier: Encoding) -> Result:
    """The result, with how much of what is kept was not kept for an earlier question."""
    if result.what is None:
        return result
    selection = pruner.choose(earlier)
    return replace(
        result, others=len(np.setdiff1d(result.what.kept, selection.kept[0].cpu().numpy()))
    )


@checked
@cache
def bundled(number: int) -> Sample:
    """An image of the demo, with the demo's question first among its questions."""
    sample, question = CASES[number].load()
    rest = tuple(q for q in sample.questions if q != question)
    return Sample(sample.id, sample.image, (question, *rest), sample.things)


def remember(memory: OrderedDict[K, V], key: K, value: V, most: int) -> None:
    """Note something as used last, and forget what has not been used for longest."""
    memory[key] = value
    memory.move_to_end(key)
    while len(memory) > most:
        memory.popitem(last=False)
