"""Pruning inside the language model: later layers read the visual tokens that attention ranks best.

The first layers read every visual token. `Pruner.pruned` comes through here once the shorter prompt
stands, for the methods that prune between layers.
"""

import math
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import ClassVar

import torch
from torch import nn
from transformers import PreTrainedModel

from adafv.core.layerwise_decoder import LayerwiseDecoder, Raters
from adafv.core.pruner import Pruner
from adafv.core.rebuild import kept_positions
from adafv.core.selection import Selection
from adafv.core.visual_tokens import Encoding, VisualTokens
from adafv.families import family_of
from adafv.families.base import base_of
from adafv.ops.budget import BudgetError
from adafv.ops.precision import full_precision
from adafv.utils.adapters import without_adapters
from adafv.utils.checks import checked

__all__ = ["LayerPruner", "Raters", "after_share", "last_token"]


@checked
@dataclass(kw_only=True)
class LayerPruner(Pruner):
    """Drops visual tokens between the layers of the language model, by the attention they get.

    K is the mean over the layers of the visual tokens that a layer reads, so that a method costs
    what one that prunes before the language model costs at the same budget. After each of a few
    stages an image keeps the same share λ of its tokens, with λ solved for K. The inputs keep
    their length; the model reads them in a context:

        with pruner.attached(model):
            model.generate(**inputs)

        encoding = pruner.encode(model, inputs)
        with pruner.between_layers(model, encoding):
            model.generate(**pruner.prune(model, inputs, encoding))

    What repeats in a video is dropped before the first layer, as by any other method. From there on
    a token keeps its position, whatever `positions` says. Newline tokens are dropped, as `newlines`
    says, once a token of their image is. Text is always kept. A sliding
    window counts the tokens that are left. Where a forward returns hidden states or logits, those
    of later layers are shorter than the prompt: of the tokens these layers read, in order. Decoding
    by hand from the cache works while `between_layers` is open, in any one thread. What else the
    model reads meanwhile, without images, is read as a whole.

    A method says after which layers it prunes (`stages`), whose attention ranks the visual tokens
    (`raters`), and whether it is that of the layer before a stage or, asked in advance, of the one
    after it (`looks_ahead`).

    Raises:
        ValueError: a budget below what the layers before the first stage read already; a budget for
            each crop; in a call without a context.
    """

    layerwise: ClassVar[bool] = True
    looks_ahead: ClassVar[bool] = False

    @abstractmethod
    def stages(self, layers: int) -> list[int]:
        """Return after how many of the model's layers tokens are dropped: ascending, 1 or more."""

    @abstractmethod
    def raters(self, encoding: Encoding) -> Raters:
        """Return for each image the tokens whose attention ranks its visual tokens at each stage.

        Returns:
            Their positions (M,) in the image's prompt, on the host, and the weights (M,) of their
            rows, on the device.
        """

    def plan(self, layers: int, count: int, budget: int) -> list[int]:
        """Return how many of an image's `count` tokens are left after each stage.

        In the mean of the layers they are `budget`.
        """
        stages = self.stages(layers)
        if budget == count:
            return [count] * len(stages)
        if stages[-1] >= layers:
            raise ValueError(
                f"{self.name} prunes after layer {stages[-1]}, the model has {layers}: choose one "
                "before"
            )
        lengths = _stage_lengths(stages, layers)
        if not _fits(lengths, count, budget):
            raise BudgetError(self._too_little(stages[0], lengths, count))

        # the same share at each stage, rounded to whole tokens
        left = _geometric(lengths, count, budget)
        plan = [math.floor(k + 0.5) for k in left[:-1]]

        # the last stage makes up for the rounding
        read = 0
        for length, k in zip(lengths, plan, strict=False):
            read += length * k
        last = math.floor((layers * budget - read) / lengths[-1] + 0.5)
        return [*plan[1:], min(max(1, last), plan[-1])]

    def _too_little(self, before: int, lengths: list[int], count: int) -> str:
        """Return the error message for a budget that the first `before` layers use up."""
        tokens = next(k for k in range(1, count + 1) if _fits(lengths, count, k))
        if self.keep is None:
            option = "tokens"
            given: float | None = self.tokens
            least: float = tokens
        else:
            option = "keep"
            given = self.keep
            least = -(-100 * tokens // count) / 100  # rounded up to a percent
        return (
            f"{self.name} lets {before} of {sum(lengths)} layers read everything: {option}={given} "
            f"is below its least, {least}, for an image of {count} tokens: pass {option}={least} "
            "or more"
        )

    def pick(self, tokens: VisualTokens, budget: list[int]) -> Selection:
        """Keep all tokens: which of them later layers read is only known between the layers."""
        lengths = _stage_lengths(self.stages(tokens.layers), tokens.layers)
        kept: list[torch.Tensor] = []
        read: list[float] = []
        for count, k in zip(tokens.counts, budget, strict=True):
            kept.append(torch.arange(count, device=tokens.device))  # (N,)

            # the mean over layers of what they read
            left = [count, *self.plan(tokens.layers, count, k)]
            total = sum(length * n for length, n in zip(lengths, left, strict=True))
            read.append(total / tokens.layers)
        return Selection(kept, read=read)

    @contextmanager
    def between_layers(
        self, model: PreTrainedModel, encoding: Encoding
    ) -> Iterator[LayerwiseDecoder | None]:
        """Prune between the layers of the model while it reads what `prune` returned."""
        counts = encoding.tokens.counts
        budget = [self.budget(count) for count in counts]
        if budget == list(counts):
            yield None
            return
        self._check_layerwise(model, encoding)

        layers = encoding.tokens.layers
        plans = [self.plan(layers, count, k) for count, k in zip(counts, budget, strict=True)]
        mesh = getattr(model, "_device_mesh", None)  # of tensor parallelism
        with torch.no_grad(), full_precision(encoding.tokens.device):
            decoder = LayerwiseDecoder(
                encoding,
                model.get_decoder(),
                readers=_readers(model),
                stages=self.stages(layers),
                plans=plans,
                raters=self.raters(encoding),
                in_prompt=partial(
                    kept_positions, encoding, newlines=self.newlines, whole=self._whole(encoding)
                ),
                group=None if mesh is None else mesh["tp"].get_group(),
                ahead=self.looks_ahead,
            )
        with decoder.hooked():
            yield decoder

    def _check_layerwise(self, model: PreTrainedModel, encoding: Encoding) -> None:
        """Raise a `ValueError` if tokens cannot be dropped between the layers of a model."""
        if encoding.prompt.packed:
            raise ValueError(
                f"{self.name} prunes between the layers of the language model, which cannot be "
                "done in packed rows: pass a batch of prompts, or choose a method that prunes "
                "before it, e.g. adafv"
            )
        reason = family_of(model).no_layerwise_reason
        if reason:
            raise ValueError(
                f"{self.name} prunes between the layers of the language model, which models of the "
                f"family {model.config.model_type!r} don't allow: {reason}. Choose a method that "
                "prunes before it, e.g. adafv"
            )


def _readers(model: PreTrainedModel) -> list[nn.Module]:
    """Return the modules that call a language model, the innermost last, without adapters."""
    outer: nn.Module = without_adapters(model)
    inner: nn.Module = base_of(model)
    return [inner] if outer is inner else [outer, inner]


@checked
def last_token(encoding: Encoding) -> Raters:
    """Let the last token before the answer rate: it is the first to answer.

    That of the chat template counts.
    """
    weight = torch.ones(1, device=encoding.tokens.device)
    raters: Raters = []
    for span in encoding.spans:
        position = encoding.prompt.last_before_answer(span, encoding.question)
        raters.append((torch.tensor([position]), weight))
    return raters


@checked
def after_share(layers: int, *shares: float) -> list[int]:
    """Return after how many layers the shares of a model's depth are reached.

    In shallow models some may coincide.
    """
    return sorted({max(1, math.floor(layers * share + 0.5)) for share in shares})


def _stage_lengths(stages: list[int], layers: int) -> list[int]:
    """Return how many layers read the same tokens: before the first stage, and after each."""
    return [after - before for before, after in pairwise([0, *stages, layers])]


def _geometric(lengths: list[int], count: int, budget: int) -> list[float]:
    """Return the tokens read before the first stage and after each: count · λ^s at stage s.

    λ is such that the mean over the layers is the budget.
    """
    low = 0.0
    high = 1.0
    # bisect: the mean grows with λ
    for _ in range(60):
        share = (low + high) / 2
        total = sum(length * share**s for s, length in enumerate(lengths))
        mean = count * total / sum(lengths)
        if mean < budget:
            low = share
        else:
            high = share
    return [count * low**s for s in range(len(lengths))]


def _fits(lengths: list[int], count: int, budget: int) -> bool:
    """Return whether a budget leaves a token of an image to the last layers."""
    return _geometric(lengths, count, budget)[-1] >= 0.5
