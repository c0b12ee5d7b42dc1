"""The pruner: encode, score, select, rebuild.

Every invariant is kept here, once, whatever the method.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from adafv.core.attached.context import attached
from adafv.core.crop_batch import join_crops, split_crops
from adafv.core.encode import encode, reask
from adafv.core.encoder import asks_for_gradients
from adafv.core.evidence import Evidence
from adafv.core.inputs import as_tensors, has_images
from adafv.core.merging import check_merging
from adafv.core.rebuild import rebuild
from adafv.core.selection import Selection, first
from adafv.core.settings import Settings
from adafv.core.signals import SALIENCY
from adafv.core.visual_tokens import Encoding, VisualTokens
from adafv.ops.precision import exact

if TYPE_CHECKING:
    from adafv.core.layerwise_decoder import LayerwiseDecoder

__all__ = ["Pruner", "Selection"]

NO_IMAGE = "a prompt has no image to prune: pass one, or set strict=False to let it through"


@dataclass(kw_only=True)
class Pruner(Settings, ABC):
    """Keeps K of the N visual tokens of each image, before the language model reads them.

        pruner = AdaFV(keep=0.05)
        model.generate(**pruner(model, inputs))

        with pruner.attached(model):
            model.generate(**inputs)

    A method is a subclass with one method: `pick`, `rank` if a smaller budget always keeps some of
    what a larger one does (see `NestedPruner`), or `score` if it is a ranking (see
    `ScoringPruner`). Its class says what it looks at: the `signals` of the vision tower, the
    question (`needs_text`; or, as the seed of what it `draws`); whether it keeps `exact`ly K; and
    whether it `shrinks` images before the tower, so that it shares no encoding with others; whether
    it goes `stepwise`, token after token, so that its time grows with K · N; and whether it
    factorises a matrix of all tokens, so that its time is `cubic`.
    What it is told are its `Settings`: budget, crops, positions, question.
    """

    def __init_subclass__(cls) -> None:
        """Keep autocast away from what a method computes: same features, same tokens."""
        super().__init_subclass__()
        for name in ("pick", "rank"):
            if name in vars(cls):
                setattr(cls, name, exact(getattr(cls, name)))

    @abstractmethod
    def pick(self, tokens: VisualTokens, budget: list[int]) -> Selection:
        """Keep exactly `budget[i]` tokens of image i: what a method is."""

    def select(self, tokens: VisualTokens, budget: list[int]) -> Selection:
        """Keep exactly `budget[i]` tokens of image i; each of its crops gets its share of them."""
        if self.crops == "global":
            return self.pick(tokens, budget)
        # split the budget among the crops, which are images of their own for `pick`
        crops = split_crops(tokens, budget)
        return join_crops(self.pick(crops.tokens, crops.budget), crops)

    def __call__(self, model: PreTrainedModel, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Encode the images of `inputs` and return shorter inputs for the same model.

        Args:
            model: a vision-language model of a family in `adafv.families`.
            inputs: what the model's processor returned.

        Returns:
            The same dict with fewer placeholders and the encoded images (`mm_encoder_outputs`) in
            place of the pixels, for `model(**…)` and `model.generate(**…)`. Without an image: the
            inputs as they are. A model with M-RoPE notes the position at which decoding resumes
            (`rope_deltas`), so by hand decode one prompt before pruning the next. As mostly for
            `generate`, nothing is recorded of the vision tower: for its gradients pass labels or
            pixels that ask for some, train the model, or use `attached`.

        Raises:
            ValueError: an unknown family; with `strict`, a prompt without an image; a method that
                prunes between the layers, which shorter inputs cannot express.
        """
        if not isinstance(inputs, Mapping):
            raise ValueError(
                f"inputs is a {type(inputs).__name__}: pass the dict that the model's processor "
                "returned"
            )
        self.check(inputs)
        if not has_images(inputs):
            return dict(inputs)
        if self.layerwise and self.keep != 1:
            raise ValueError(
                f"{self.name} prunes between the layers of the model, which shorter inputs cannot "
                "express: call model.generate(**inputs) inside `with pruner.attached(model):`"
            )
        inputs = as_tensors(inputs, model.device)
        goes_back = torch.is_grad_enabled() and asks_for_gradients(model, inputs)
        with torch.set_grad_enabled(goes_back):
            encoding = self.encode(model, inputs)
        return self.prune(model, inputs, encoding)

    def check(self, inputs: Mapping[str, Any]) -> None:
        """Raise a `ValueError` if the inputs of a model lack the image that `strict` asks for."""
        encoded = inputs.get("mm_encoder_outputs") is not None
        if self.strict and not encoded and not has_images(inputs):
            raise ValueError(NO_IMAGE)

    def encode(self, model: PreTrainedModel, inputs: Mapping[str, Any]) -> Encoding:
        """Run the vision tower, with the signals that this method needs."""
        return encode(
            model,
            inputs,
            signals=self.signals,
            text=self.needs_text,
            query=self._query,
            skip=frozenset(self.skip),
            of=self.question,
            tokenizer=self.tokenizer,
        )

    def reask(
        self,
        model: PreTrainedModel,
        inputs: Mapping[str, Any],
        encoding: Encoding,
        images: Sequence[int] | None = None,
    ) -> Encoding:
        """Ask new prompts about encoded images, without running the vision tower again.

        Args:
            inputs: the new prompts.
            encoding: the images, with the signals that this method needs.
            images: indices of the encoded images that the prompts show, in reading order. None:
                all of them.

        Raises:
            ValueError: placeholders that don't match the images.
        """
        return reask(
            model,
            inputs,
            encoding,
            images,
            text=self.needs_text,
            query=self._query,
            skip=frozenset(self.skip),
            of=self.question,
            tokenizer=self.tokenizer,
        )

    @torch.no_grad()
    def choose(self, encoding: Encoding) -> Selection:
        """Select K tokens of every image that is encoded, within this pruner's budget.

        Raises:
            ValueError: images encoded whole for a method that shrinks them, or the other way round;
                without a signal or the text that this method looks at; an option that was assigned
                is out of its range.
        """
        self.check_options()
        self._check_encoding(encoding)
        return self.select(encoding.tokens, self._budgets(encoding))

    def _budgets(self, encoding: Encoding) -> list[int]:
        """Return K of every image."""
        return [self.budget(count) for count in encoding.tokens.counts]

    def _whole(self, encoding: Encoding) -> list[bool]:
        """Return for each image whether the budget is all of it, repeated frames included."""
        found = []
        for full, structural in zip(encoding.features, encoding.structural_indices, strict=True):
            everything = self.tokens is not None and self.tokens >= len(full) - len(structural)
            found.append(self.keep == 1 or everything)
        return found

    def loses_tokens(self, encoding: Encoding) -> bool:
        """Return whether any image loses a token to its budget."""
        for image, whole in enumerate(self._whole(encoding)):
            count = encoding.tokens.counts[image]
            if self.budget(count) != count or (encoding.repeats(image) and not whole):
                return True
        return False

    def _check_encoding(self, encoding: Encoding) -> None:
        """Raise a `ValueError` unless images are encoded as this method needs them."""
        if encoding.downsampled != self.shrinks:
            how = "shrunk" if encoding.downsampled else "whole"
            raise ValueError(
                f"these images are encoded {how}, and {self.name} needs them otherwise: "
                "encode them with the pruner itself"
            )
        lacking = []
        if self.needs_text and encoding.tokens.text is None:
            lacking.append("the text of their question")
        for signal in self.signals - encoding.tokens.signals.keys():
            lacking.append(f"{signal.kind!r} of the vision tower")
        if lacking:
            raise ValueError(
                f"these images are encoded without {' and '.join(sorted(lacking))}, which "
                f"{self.name} needs: encode them with the pruner itself, or pass text and signals "
                "to `encode`"
            )

    @property
    def nested(self) -> bool:
        """Tell if every budget keeps the first tokens of one `order`."""
        return False

    def order(self, encoding: Encoding, count: int | None = None) -> list[Tensor]:
        """Return each image's tokens in the order in which budgets take them up.

        The first K of it are what `choose` keeps with `tokens=K`, so that one order serves every
        budget: `pruner.cut(encoding, order)`.

        Args:
            count: how many are needed; the pick-by-pick methods take as long as they are many.
                None: all of them.

        Returns:
            For each image (min(count, N),) indices.

        Raises:
            ValueError: a method that is not `nested`; see also `choose`.
        """
        raise ValueError(
            f"{self.spec} has no order, since it keeps other tokens at other budgets: call "
            "choose for each budget, or take a method that is nested, such as fastervlm or scope"
        )

    def cut(self, encoding: Encoding, order: Sequence[Tensor]) -> Selection:
        """Select K tokens of every image, given their `order` (of K or more)."""
        return Selection(first(order, self._budgets(encoding)))

    @contextmanager
    def pruned(
        self,
        model: PreTrainedModel,
        inputs: Mapping[str, Any],
        encoding: Encoding,
        selection: Selection | None = None,
    ) -> Iterator[tuple[dict[str, Any], Selection]]:
        """Choose tokens and rebuild the prompt; while open, the model may read it.

            with pruner.pruned(model, inputs, encoding) as (short, selection):
                model.generate(**short)

        Args:
            inputs: what the processor returned.
            encoding: of their images, with the signals that this method needs.
            selection: what `cut` or `choose` returned of them; None: it is chosen here.

        Yields:
            The shorter inputs, and what was kept. A method that prunes between the layers of the
            language model does so until the context is left.
        """
        if selection is None:
            selection = self.choose(encoding)
        short = self.rebuild(model, inputs, encoding, selection)
        with self.between_layers(model, encoding):
            yield short, selection

    def prune(
        self, model: PreTrainedModel, inputs: Mapping[str, Any], encoding: Encoding
    ) -> dict[str, Any]:
        """Return the shorter inputs of encoded images; several methods may share one encoding."""
        rows = {span.row for span in encoding.spans}
        if self.strict and len(rows) < len(encoding.prompt.ids):
            raise ValueError(NO_IMAGE)
        return self.rebuild(model, inputs, encoding, self.choose(encoding))

    def rebuild(
        self,
        model: PreTrainedModel,
        inputs: Mapping[str, Any],
        encoding: Encoding,
        selection: Selection,
    ) -> dict[str, Any]:
        """Put what is kept into a shorter prompt.

        Ids, masks, labels, positions and features shrink together.
        """
        counts = list(encoding.tokens.counts)
        fewer_later = selection.read not in (None, counts)
        if inputs.get("labels") is not None and fewer_later:
            raise ValueError(
                f"labels are given, but {self.name} leaves fewer logits than labels: leave them out"
            )

        # an image that keeps everything keeps its own features, too
        keeps_all = [len(kept) for kept in selection.kept] == counts
        merged = None if keeps_all else selection.features
        if merged is not None:
            check_merging(self.name, model, inputs, encoding)
        return rebuild(
            model,
            as_tensors(inputs, model.device),
            encoding,
            selection.kept,
            merged,
            whole=self._whole(encoding),
            positions=self.positions,
            newlines=self.newlines,
            layerwise=fewer_later,
        )

    def between_layers(
        self, model: PreTrainedModel, encoding: Encoding
    ) -> "AbstractContextManager[LayerwiseDecoder | None]":
        """Prune between the layers of the model while it reads what `prune` returned.

        Methods that choose before the language model have nothing to do there.
        """
        return nullcontext()

    def evidence(self, tokens: VisualTokens) -> Evidence:
        """Return what this method weighs of these tokens, for whoever explains its choice."""
        saliency = tokens.signals.get(SALIENCY) if SALIENCY in self.signals else None
        return Evidence(saliency=saliency)

    def attached(self, model: PreTrainedModel) -> AbstractContextManager[PreTrainedModel]:
        """Open a context in which the model's own `generate` and `forward` prune their images.

        They keep their signatures, and the caller's numbers. `generate` returns ids that begin with
        the caller's prompt; `max_length`, stopping criteria, logits processors and streamers see
        that prompt too. A cache goes on in a chat's next turn and in a decoding loop of the
        caller's own, whose masks and positions count the full prompts; one that a later call
        cannot go on from is refused. Images of earlier turns keep what they kept, whether their
        pixels are passed again or not; those of a later turn are pruned.

        What `forward` returns runs along the shorter prompt: count logits and hidden states from
        the end, or name their positions with `logits_to_keep`, which are the caller's; that of a
        dropped token is an error.

        For as long as it is open, the model is of a class like its own. On leaving, after an
        exception too, it is as it was. A copy or a pickle that is made meanwhile is a model of its
        own, without the pruner. What ran meanwhile ends with it: `generate` that starts later warns
        that it prunes nothing, and a cache that a pruned prompt has filled is no longer in the
        caller's numbers, so that the plain model would go on from it wrongly and without a word.

        Raises:
            ValueError: a pruner is attached to this model, to a part of it or to a model that it is
                a part of; something around a model (a value head, `DataParallel`), in place of the
                model.
        """
        return attached(self, model)
