"""Questions on encoded images, answered under one configuration after another."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel, ProcessorMixin

from adafv.core.encode import reask
from adafv.core.pruner import Pruner
from adafv.core.selection import Selection
from adafv.core.visual_tokens import Encoding
from adafv.evaluation.boxes import distances, evidence_kept, patches
from adafv.evaluation.contact_sheets import on_contact_sheet
from adafv.evaluation.oracle import Oracle
from adafv.evaluation.prepared_images import PreparedImages
from adafv.families import check_has_grid
from adafv.models.generation import check_length, decode, generate
from adafv.models.prompting import build_text
from adafv.ops.budget import BudgetError
from adafv.utils.checks import checked
from adafv.utils.clock import now

__all__ = ["Prompts"]


@dataclass(frozen=True)
class _Order:
    """The first `count` tokens of each image's order, and the seconds that it took."""

    tokens: list[Tensor]
    count: int
    seconds: float


@checked
class Prompts:
    """A batch of questions, each on one of the images that an encoding holds.

    Args:
        model, processor: that are asked.
        prepared: images.
        encoding: of the same images.
        images: indices of those that the questions are about.
        samples: of all the images.
        asked: the questions.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        processor: ProcessorMixin,
        prepared: PreparedImages,
        encoding: Encoding,
        images: list[int],
        samples: list[Any],
        asked: list[Any],
    ) -> None:
        self.model = model
        self.processor = processor
        self.prepared = prepared
        self.images = images
        self.asked = asked
        self.sizes = [samples[i].image.size for i in images]
        self.frames = [samples[i].frames for i in images]
        self.questions = [question.text for question in asked]
        self.inputs = self._inputs(pixels=False)
        check_length(model, self.inputs["input_ids"])
        # the same questions without an image
        self.blind = build_text(processor, self.questions, model.device)
        # by the text tokens that are skipped; the images are encoded already
        self.encodings = {frozenset[int](): reask(model, self.inputs, encoding, images)}
        # by the method without its budget, and by what it skips, which its name may leave out
        self.orders: dict[tuple[str, frozenset[int]], _Order] = {}

    def answer(self, pruner: Pruner | None, max_new_tokens: int) -> list[dict[str, Any]]:
        """Return answer, visual_tokens, kept_tokens, evidence_kept and seconds of each question.

        A method that is nested orders the tokens once, for this budget and the smaller ones that
        are asked for later; the seconds of each contain those of the order.

        Evidence is the share of the tokens in the boxes of a question that stay; None: without
        boxes, and where a kept token is no longer a patch of its own.

        Args:
            pruner: None: the blind model.
            max_new_tokens: length of an answer.

        Raises:
            BudgetError: the method cannot meet its budget on this model.
        """
        if pruner is not None and pruner.shrinks:
            encoding = pruner.encode(self.model, self._whole)
        else:
            encoding = self._without(frozenset(pruner.skip) if pruner else frozenset())
        counts = encoding.tokens.counts
        # the oracle alone is told what the questions are about
        if isinstance(pruner, Oracle):
            pruner = replace(pruner, distances=self._distances)
        # the vision tower has run before, for all configurations
        selection, seconds = self._chosen(pruner, encoding) if pruner else (None, 0.0)
        start = now(self.model.device)
        if pruner is None or selection is None:
            read = [0.0] * len(counts)
            output = generate(self.model, self.blind, max_new_tokens)
        else:
            with pruner.pruned(self.model, self.inputs, encoding, selection) as (short, _):
                output = generate(self.model, short, max_new_tokens)
            read = selection.tokens_read
        texts = decode(self.processor, output)
        seconds += now(self.model.device) - start
        seconds /= len(texts)  # a question's share of the batch

        evidence: list[float | None] = [None] * len(counts)
        if selection is not None and pruner is not None and not pruner.shrinks:
            evidence = self._evidence(selection)
        answers = []
        for text, count, kept, share in zip(texts, counts, read, evidence, strict=True):
            answers.append(
                {
                    "answer": text,
                    "visual_tokens": count,
                    "kept_tokens": kept,
                    "evidence_kept": share,
                    "seconds": round(seconds, 6),
                }
            )
        return answers

    def _inputs(self, pixels: bool) -> dict[str, Any]:
        """Return the prompts, with or without the pixels of their images."""
        model = self.model
        return self.prepared.ask(
            self.images, self.questions, model.device, model.dtype, pixels=pixels
        )

    @cached_property
    def _whole(self) -> dict[str, Any]:
        """The prompts with pixels, for methods that encode images of their own."""
        return self._inputs(pixels=True)

    def _chosen(self, pruner: Pruner, encoding: Encoding) -> tuple[Selection, float]:
        """Return what is kept within the budget, and the seconds that the choice takes."""
        start = now(self.model.device)
        if not pruner.nested:
            return pruner.choose(encoding), now(self.model.device) - start

        # an order that is long enough may be there from a larger budget
        count = max(map(pruner.budget, encoding.tokens.counts))
        key = (pruner.spec, frozenset(pruner.skip))
        order = self.orders.get(key)
        if order is None or order.count < count:
            ordered = pruner.order(encoding, count)
            order = _Order(ordered, count, now(self.model.device) - start)
            self.orders[key] = order
        return pruner.cut(encoding, order.tokens), order.seconds

    def _without(self, skip: frozenset[int]) -> Encoding:
        """Return the images with the text tokens of their questions, `skip` left out."""
        if skip not in self.encodings:
            self.encodings[skip] = reask(
                self.model, self.inputs, self.encodings[frozenset()], skip=skip
            )
        return self.encodings[skip]

    def _evidence(self, selection: Selection) -> list[float | None]:
        """Return the share of the tokens in each question's boxes that are kept."""
        unknown: list[float | None] = [None] * len(self.asked)
        # merged and shrunk tokens, and those that only some layers read, show more than a patch
        own_patches = selection.features is None and selection.read is None
        if not own_patches or not any(question.boxes for question in self.asked):
            return unknown
        try:
            known = self._distances
        except BudgetError:
            return unknown

        pairs = zip(known, selection.kept, strict=True)
        return [evidence_kept(distance, kept.cpu()) for distance, kept in pairs]

    @cached_property
    def _distances(self) -> list[Tensor]:
        """How far tokens are from the boxes, (N, boxes) each, as the oracle knows."""
        # a model whose tokens have no grid is no reason to end an evaluation
        try:
            check_has_grid(self.model)
        except ValueError as error:
            raise BudgetError(str(error)) from None

        found = []
        grids = self.encodings[frozenset()].tokens.coordinates
        for i, question in enumerate(self.asked):
            coordinates = on_contact_sheet(grids[i], self.frames[i])  # (N, 3)
            grid = patches(self.processor, self.sizes[i], coordinates)  # (N, 4)
            found.append(distances(grid, question.boxes))
        return found
