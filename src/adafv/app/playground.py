"""Ask a model for its visitors, each of whom has a session."""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from threading import RLock
from time import monotonic, sleep
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from transformers import PreTrainedModel, ProcessorMixin

from adafv.app.samples import bundled
from adafv.app.session import EncodedQuestion, Session, remember
from adafv.app.view import DENSE, Result, View
from adafv.core import chat_template
from adafv.core.config import DEFAULT_METHOD, PruneConfig
from adafv.core.encode import encode, reask
from adafv.core.pruner import Pruner
from adafv.core.signals import SALIENCY, Signal
from adafv.core.tower_cache import TowerCache
from adafv.core.visual_tokens import Encoding
from adafv.data.cases import EXPLAINED
from adafv.methods import TextToImage, from_spec
from adafv.models.ask import Answer, ask_encoded
from adafv.models.boilerplate import boilerplate
from adafv.models.generation import check_answer_length, check_text_length
from adafv.models.images import open_image
from adafv.models.prompting import build_inputs, check_question
from adafv.models.vocabulary import unknown_words
from adafv.utils.checks import is_out_of_memory
from adafv.utils.clock import now
from adafv.viz import check_drawable, explained, question_words

__all__ = ["LONGEST_QUESTION", "SHARES", "VISITORS", "Playground"]

VISITORS = 16
"""Visitors whose images are kept in memory; who has been quiet for longest is forgotten first."""
QUESTIONS = 2
"""Questions on an image that are kept in memory: this one and the one before."""
RESULTS = 256
"""Answers on an image that are kept in memory."""
LONGEST_QUESTION = 2000
"""Characters of a question: what each of its words resembles in the image is kept in memory."""
SHARES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.7)
"""Budgets at which a question is asked besides the one that the visitor chose."""
SECONDS = 8.0
"""After so long no further budget is tried: large models are slow on a CPU."""

Array = NDArray[Any]
NO_MAP: Array = np.empty(0)


class Playground:
    """A model and its visitors' sessions; calls from several threads wait for each other.

    A session is a cache: whatever is forgotten is made again when it is asked for. Images that
    several visitors show, or one of them again, are encoded once, as far as a `TowerCache` reaches.

    Args:
        model, processor: that are asked.
        name: of the model.
        max_new_tokens: the longest answer.

    Attributes:
        cache: of encoded images; its `hits` and `misses` count those of all visitors.
        samples: the images that the page offers, see `bundled`.
    """

    def __init__(
        self, model: PreTrainedModel, processor: ProcessorMixin, name: str, max_new_tokens: int = 64
    ) -> None:
        check_answer_length(max_new_tokens)
        self.model = model
        self.processor = processor
        self.name = name
        self.samples = bundled(name)
        self.max_new_tokens = max_new_tokens
        # the chat template tells which words are the question's
        chat_template.remember(model, processor)
        self.sessions: OrderedDict[str, Session] = OrderedDict()
        self.cache = TowerCache()
        # one at a time: there is one model, and one memory
        self._lock = RLock()

    def warm_up(self) -> None:
        """Ask once, so that no visitor's times pay for a cold start."""
        question = self.samples[EXPLAINED].questions[0].text
        self.look("", str(EXPLAINED), question, [DEFAULT_METHOD], 0.05)
        self.forget("")

    def image(self, visitor: str, source: str) -> Image.Image:
        """Open an image in a visitor's session, if it isn't there, and return it.

        Args:
            visitor: who asks.
            source: a file, or the number of a bundled image.

        Raises:
            ValueError: a file that `adafv.models.images.open_image` refuses; the session is left
                as it is.
        """
        with self._lock:
            return self._session(visitor, source).image

    def look(
        self, visitor: str, source: str, question: str, names: Sequence[str], keep: float
    ) -> View:
        """Ask the dense model and some methods about an image; what is known is used again.

        Args:
            visitor, source: as in `image`.
            question: what is asked.
            names: the methods, as `adafv.methods.from_spec` reads them.
            keep: share of the visual tokens.

        Raises:
            ValueError: an image, question, method or share that cannot be used. What only one
                method refuses is said in its own result.
        """
        with self._lock, torch.no_grad():
            session = self._session(visitor, source)
            if len(question) > LONGEST_QUESTION:
                raise ValueError(
                    f"the question has {len(question):,} characters, more than "
                    f"{LONGEST_QUESTION:,}: shorten it"
                )
            question = check_question(self.processor, question)
            pruners = self._pruners(names, keep)

            # encode, or take what is known
            try:
                encoded = self._encoded(session, question, [*pruners.values()])
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                raise ValueError(
                    "the memory of the device is too small for this image: make it smaller"
                ) from None

            # answer; compare what is kept with what the question before kept
            session.note(question, names)
            results: list[Result] = []
            for name, pruner in pruners.items():
                dense = results[0].answer if results else None
                result = self._result(session, encoded, question, name, pruner, dense)
                if session.before is not None:
                    earlier = self._encoding(session.questions[session.before], pruner)
                    result = _compared(result, pruner, earlier)
                results.append(result)
            return View(
                image=session.image,
                question=question,
                keep=keep,
                results=results,
                saliency=encoded.saliency,
                relevance=encoded.relevance,
                words=encoded.words,
                vision_ms=session.vision_ms,
                before=session.before,
            )

    def budgets(self, visitor: str) -> list[View] | None:
        """Ask what a visitor has asked last at each of `SHARES`, as far as `SECONDS` reach.

        Others are answered in between.

        Returns:
            A view for each share; none, if nothing was asked; None, if something else was asked
            meanwhile.
        """
        start = monotonic()
        session = self.sessions.get(visitor)
        if session is None or session.question is None:
            return []
        asked = (session.question, session.names)
        views: list[View] = []
        for share in SHARES:
            # whoever waits for the lock goes first
            sleep(0.01)
            with self._lock:
                # whoever has left is not to be remembered again
                if visitor not in self.sessions:
                    break
                # nor an older image, question or method
                if self.sessions[visitor] is not session:
                    return None
                if (session.question, session.names) != asked:
                    return None
                if monotonic() - start > SECONDS:
                    break
                views.append(self.look(visitor, session.source, *asked, share))
        return views

    def last_question(self, visitor: str, source: str) -> str | None:
        """Return what a visitor has asked last about an image; None: nothing yet."""
        with self._lock:
            session = self.sessions.get(visitor)
            if session is None or session.source != source:
                return None
            return session.question

    def unknown_words(self, question: str) -> list[str]:
        """Return the words of a question that the model's tokenizer does not know."""
        # tokenizers are not made for several threads
        with self._lock:
            return unknown_words(self.processor, question)

    def forget(self, visitor: str) -> None:
        """Forget the session of a visitor who has left."""
        with self._lock:
            self.sessions.pop(visitor, None)

    def _session(self, visitor: str, source: str) -> Session:
        """Return a visitor's session, a new one if the image is another."""
        session = self.sessions.get(visitor)
        if session is None or session.source != source:
            # a number is a bundled image, anything else a file
            image = self.samples[int(source)].image if source.isdigit() else open_image(source)
            session = Session(source, image)
        remember(self.sessions, visitor, session, VISITORS)
        return session

    def _encoded(self, session: Session, question: str, pruners: list[Pruner]) -> EncodedQuestion:
        """Return a question on the session's image.

        The vision tower runs only if a method looks at something that was not observed yet.
        """
        # which signals there are, and which are wanted
        wanted = frozenset({SALIENCY}).union(*(pruner.signals for pruner in pruners))
        known: frozenset[Signal] = frozenset()
        if session.encoding is not None:
            known = frozenset(session.encoding.tokens.signals)

        # encode the image, and put the questions to the new encoding
        inputs: dict[str, Any] | None = None
        if session.encoding is None or not wanted <= known:
            inputs = self._inputs(session, question)
            saved = self.cache.seconds_saved
            start = now(self.model.device)
            with self.cache:
                session.encoding = encode(self.model, inputs, signals=wanted | known, text=False)
            seconds = now(self.model.device) - start
            # a tower that did not run again is shown with the time it took when it did
            session.vision_ms = (seconds + self.cache.seconds_saved - saved) * 1000
            for earlier in session.questions:
                earlier_inputs = self._inputs(session, earlier)
                session.questions[earlier] = self._reasked(session.encoding, earlier_inputs)

        # put this question to it
        encoded = session.questions.get(question)
        if encoded is None:
            encoded = self._reasked(session.encoding, inputs or self._inputs(session, question))
        remember(session.questions, question, encoded, QUESTIONS)
        return encoded

    def _inputs(self, session: Session, question: str) -> dict[str, Any]:
        """Return the prompt of a question."""
        device = self.model.device
        inputs = build_inputs(self.processor, session.image, question, device, self.model.dtype)
        check_text_length(self.model, inputs)
        return inputs

    def _reasked(self, image: Encoding, inputs: dict[str, Any]) -> EncodedQuestion:
        """Put a question to an encoded image."""
        encoding = reask(self.model, inputs, image)
        tokens = encoding.tokens
        # pixels are used up by the encoder
        rest = {name: value for name, value in inputs.items() if name not in encoding.consumed}
        relevance = TextToImage(keep=1.0)
        everything = np.arange(tokens.counts[0])  # (N,)
        return EncodedQuestion(
            inputs=rest,
            encoding=encoding,
            saliency=tokens.saliency[0].float().cpu().numpy(),  # (N,)
            relevance=relevance.score(tokens)[0].cpu().numpy(),  # (N,)
            words=question_words(self.processor, relevance, encoding, everything),
        )

    def _pruners(self, names: Sequence[str], keep: float) -> dict[str, Pruner]:
        """Return the dense model first, then each method at the share that is kept."""
        pruners = {DENSE: from_spec(DENSE)}
        for name in names:
            if budget := PruneConfig.from_spec(name).budget:
                raise ValueError(
                    f"method {name!r} has a budget of its own: leave {', '.join(budget)} out, "
                    "for the slider sets the budget of all methods"
                )
            pruners[name] = from_spec(name, self._template, keep=keep)
        return pruners

    def _template(self) -> frozenset[int]:
        """Return the ids that `skip=template` stands for."""
        return boilerplate(self.processor)

    def _encoding(self, encoded: EncodedQuestion, pruner: Pruner) -> Encoding:
        """Return a question's encoding, without the text tokens that a method skips."""
        if not pruner.skip:
            return encoded.encoding
        return pruner.reask(self.model, encoded.inputs, encoded.encoding)

    def _result(
        self,
        session: Session,
        encoded: EncodedQuestion,
        question: str,
        name: str,
        pruner: Pruner,
        dense: Answer | None,
    ) -> Result:
        """Return what a method makes of a question, which is computed once.

        Args:
            name: of the method with its options, as the visitor wrote it.
            dense: the answer with all tokens, if there is one already.
        """
        # a budget in tokens is not asked for here
        key = (question, name, pruner.keep or 1.0)
        result = session.results.get(key)
        if result is None:
            result = self._new_result(session, encoded, question, name, pruner, dense)
        # what failed may work the next time, the dense answer beside it too
        drawn = result.explanation
        if result.answer is not None and (drawn is None or drawn.dense is not None):
            remember(session.results, key, result, RESULTS)
        return result

    def _new_result(
        self,
        session: Session,
        encoded: EncodedQuestion,
        question: str,
        name: str,
        pruner: Pruner,
        dense: Answer | None,
    ) -> Result:
        """Answer a question with a method, and explain it where that can be drawn."""
        try:
            # the image is encoded once, whole, for all methods
            check_drawable(pruner)
        except ValueError as error:
            return Result(name, note=str(error))
        encoding = self._encoding(encoded, pruner)
        try:
            answer, selection = ask_encoded(
                self.model, self.processor, encoded.inputs, encoding, pruner, self.max_new_tokens
            )
        except ValueError as error:
            return Result(name, note=str(error))
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            note = "the memory of the device is too small for so many tokens: keep fewer"
            return Result(name, note=note)

        if pruner.name == DENSE:
            dense = answer
        try:
            explanation = explained(
                self.model,
                self.processor,
                inputs=encoded.inputs,
                image=session.image,
                question=question,
                pruner=pruner,
                encoding=encoding,
                selection=selection,
                dense=dense,
                pruned=answer,
            )
        except ValueError as error:
            return Result(name, answer, note=str(error))
        # the maps of the words are the question's, not each answer's
        words = [replace(word, attention=NO_MAP) for word in explanation.words]
        return Result(name, answer, replace(explanation, words=words))


def _compared(result: Result, pruner: Pruner, earlier: Encoding) -> Result:
    """Return a result that says how many kept tokens an earlier question did not keep."""
    # what a method that prunes between layers keeps shows only when the model reads
    if result.explanation is None or pruner.layerwise:
        return result
    # what the method would have kept for that question, at this budget
    kept_earlier = pruner.choose(earlier).kept[0].cpu().numpy()  # (K,)
    others = np.setdiff1d(result.explanation.kept, kept_earlier)
    return replace(result, others=len(others))
