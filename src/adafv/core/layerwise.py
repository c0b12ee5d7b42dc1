"""Pruning inside the language model: the first layers read every visual token, later ones what
attention points at.
"""

import math
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any, ClassVar

import torch
from transformers import PreTrainedModel

from adafv.core.layerwise_decoder import LayerwiseDecoder, Raters
from adafv.core.prompt import has_images
from adafv.core.pruner import BudgetError, Pruner, Selection
from adafv.core.rebuild import kept_positions
from adafv.core.visual_tokens import Encoding, VisualTokens
from adafv.families import family_of
from adafv.ops.precision import full_precision
from adafv.utils.checks import checked

__all__ = ["LayerPruner", "Raters", "after_share", "last_token"]


@checked
@dataclass(kw_only=True)
class LayerPruner(Pruner):
    """Drops visual tokens between the layers of the language model, by the attention they get
    there.

    K is the mean over the layers of the visual tokens that a layer reads, so that a method costs
    what one that prunes before the language model costs at the same budget. After each of a few
    stages an image keeps the same share λ of its tokens, with λ solved for K. The inputs stay
    whole; the model reads them in a context:

        with pruner.attached(model):
            model.generate(**inputs)

        encoding = pruner.encode(model, inputs)
        with pruner.between_layers(model, encoding):
            model.generate(**pruner.prune(model, inputs, encoding))

    A token keeps the position it has in the whole prompt, whatever `positions` says. Newline tokens
    go, as `newlines` says, once a token of their image has. Text always stays. A sliding window
    counts the tokens that are left. Where a forward returns hidden states or logits, those of later
    layers are shorter than the prompt: of the tokens these layers read, in order. Decoding by hand
    from the cache works while `between_layers` is open.

    A method says after which layers it prunes (`stages`), whose attention ranks the visual tokens
    (`raters`), and whether it is that of the layer before a stage or, asked in advance, of the one
    after it (`looks_ahead`).

    Raises:
        ValueError: a budget below what the layers before the first stage read already; a budget for
            each crop; in a call without a context.
    """

    layerwise: ClassVar[bool] = True
    looks_ahead: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.crops != "global":
            raise ValueError(
                f"crops={self.crops!r} divides a budget before the language model, {self.name} prunes inside it: "
                "pass crops='global'"
            )

    @abstractmethod
    def stages(self, layers: int) -> list[int]:
        """After how many of the model's layers visual tokens are dropped: ascending, 1 or more."""

    @abstractmethod
    def raters(self, encoding: Encoding) -> Raters:
        """For each image the tokens whose attention ranks its visual tokens at each stage.

        Returns:
            Their positions (M,) in the image's prompt, on the host, and the weights (M,) of their
            rows, on the device.
        """

    def plan(self, layers: int, count: int, budget: int) -> list[int]:
        """How many of an image's `count` tokens are left after each stage, for `budget` in the mean
        of the layers.
        """
        stages = self.stages(layers)
        if budget == count:
            return [count] * len(stages)
        if stages[-1] >= layers:
            raise ValueError(
                f"{self.name} prunes after layer {stages[-1]}, the model has {layers}: choose one before"
            )
        lengths = _lengths(stages, layers)
        if not _fits(lengths, count, budget):
            raise BudgetError(self._too_little(stages[0], lengths, count))
        left = _decay(lengths, count, budget)
        plan = [math.floor(k + 0.5) for k in left[:-1]]
        rest = (
            layers * budget - sum(n * k for n, k in zip(lengths, plan, strict=False))
        ) / lengths[-1]
        return [*plan[1:], min(max(1, math.floor(rest + 0.5)), plan[-1])]

    def _too_little(self, whole: int, lengths: list[int], count: int) -> str:
        tokens = next(k for k in range(1, count + 1) if _fits(lengths, count, k))
        option = "tokens" if self.keep is None else "keep"
        least = tokens if self.keep is None else -(-100 * tokens // count) / 100
        return (
            f"{self.name} lets {whole} of {sum(lengths)} layers read everything: {option}={getattr(self, option)} is "
            f"below its least, {least}, for an image of {count} tokens: pass {option}={least} or more"
        )

    def pick(self, tokens: VisualTokens, budget: list[int]) -> Selection:
        """All tokens: which of them later layers read is only known between the layers."""
        device, lengths = (
            tokens.features.device,
            _lengths(self.stages(tokens.layers), tokens.layers),
        )
        plans = [self.plan(tokens.layers, n, k) for n, k in zip(tokens.counts, budget, strict=True)]
        read = [
            sum(n * k for n, k in zip(lengths, [count, *plan], strict=True)) / tokens.layers
            for count, plan in zip(tokens.counts, plans, strict=True)
        ]
        return Selection([torch.arange(n, device=device) for n in tokens.counts], read=read)

    def __call__(self, model: PreTrainedModel, inputs: Mapping[str, Any]) -> dict[str, Any]:
        if self.keep != 1 and has_images(inputs):
            raise ValueError(
                f"{self.name} prunes between the layers of the model, which shorter inputs cannot express: "
                "call model.generate(**inputs) inside `with pruner.attached(model):`"
            )
        return super().__call__(model, inputs)

    def rebuild(
        self,
        model: PreTrainedModel,
        inputs: Mapping[str, Any],
        encoding: Encoding,
        selection: Selection,
    ) -> dict[str, Any]:
        if inputs.get("labels") is not None and selection.tokens_read != list(
            encoding.tokens.counts
        ):
            raise ValueError(
                f"labels are given, but {self.name} leaves fewer logits than labels: leave them out"
            )
        return super().rebuild(model, inputs, encoding, selection)

    @contextmanager
    def between_layers(
        self, model: PreTrainedModel, encoding: Encoding
    ) -> Iterator[LayerwiseDecoder | None]:
        budget = [self.budget(n) for n in encoding.tokens.counts]
        if budget == list(encoding.tokens.counts):
            yield None
            return
        if encoding.prompt.packed:
            raise ValueError(
                f"{self.name} prunes between the layers of the language model, which cannot be done in packed rows: "
                "pass a batch of prompts, or choose a method that prunes before it, e.g. adafv"
            )
        if reason := family_of(model).no_layerwise_reason:
            raise ValueError(
                f"{self.name} prunes between the layers of the language model, which models of the family "
                f"{model.config.model_type!r} don't allow: {reason}. Choose a method that prunes before it, e.g. adafv"
            )
        layers = encoding.tokens.layers
        plans = [
            self.plan(layers, n, k) for n, k in zip(encoding.tokens.counts, budget, strict=True)
        ]
        places = partial(kept_positions, encoding, newlines=self.newlines)
        with torch.no_grad(), full_precision(encoding.tokens.device):
            raters = self.raters(encoding)
            mesh = getattr(model, "_device_mesh", None)  # of tensor parallelism
            group = None if mesh is None else mesh["tp"].get_group()
            reading = LayerwiseDecoder(
                encoding,
                model.get_decoder(),
                self.stages(layers),
                plans,
                raters,
                places,
                group,
                self.looks_ahead,
            )
        with reading.hooked():
            yield reading


@checked
def last_token(encoding: Encoding) -> Raters:
    """The last token before the answer rates, that of the chat template included: it is the first
    to answer.
    """
    weight = torch.ones(1, device=encoding.tokens.features.device)
    places = [
        encoding.prompt.last_before_answer(span, encoding.question) for span in encoding.spans
    ]
    return [(torch.tensor([place]), weight) for place in places]


@checked
def after_share(layers: int, *shares: float) -> list[int]:
    """After how many layers the shares of a model's depth are reached; in shallow models some may
    coincide.
    """
    return sorted({max(1, math.floor(layers * share + 0.5)) for share in shares})


def _lengths(stages: list[int], layers: int) -> list[int]:
    """How many layers read the same tokens: before the first stage, and after each."""
    return [after - before for before, after in pairwise([0, *stages, layers])]


def _decay(lengths: list[int], count: int, budget: int) -> list[float]:
    """Tokens read before the first stage and after each: count · λ^s, with λ such that the mean is
    the budget.
    """
    low, high = 0.0, 1.0
    for _ in range(60):
        share = (low + high) / 2
        mean = count * sum(n * share**s for s, n in enumerate(lengths)) / sum(lengths)
        low, high = (share, high) if mean < budget else (low, share)
    return [count * low**s for s in range(len(lengths))]


def _fits(lengths: list[int], count: int, budget: int) -> bool:
    return _decay(lengths, count, budget)[-1] >= 0.5
