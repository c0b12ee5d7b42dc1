"""A language model that reads on from a cache whose layers hold different tokens of a prompt.

Letters: B rows, L columns of the full prompts, W of those that a layer reads.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from threading import get_ident
from typing import Any
from weakref import WeakSet

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask
from transformers import Cache, PreTrainedModel
from transformers.masking_utils import create_causal_mask, create_sliding_window_causal_mask

from adafv.families.base import layers_of
from adafv.utils.checks import checked

__all__ = ["KeptColumns", "KeptLayers", "ResumedDecoder", "extended"]

Args = tuple[Any, ...]
Kwargs = dict[str, Any]
Mask = Tensor | BlockMask | None
"""What transformers makes of a mask, for one attention function or another."""


@checked
@dataclass(frozen=True)
class KeptColumns:
    """The columns of the prompts that a layer reads.

    Attributes:
        kept: for each image the indices (k,) of its patches' tokens that are read.
        columns: (B, W) columns of the full prompts, padded with 0.
        real: (B, W), false where padded.
        full: nothing is padded.
    """

    kept: list[Tensor]
    columns: Tensor
    real: Tensor
    full: bool

    def find(self, width: int) -> Tensor:
        """Return (B, width) the index among the kept columns of each column of the full prompts."""
        found = self.columns.new_zeros(len(self.columns), width + 1)  # (B, L + 1)
        order = torch.arange(self.columns.shape[1], device=found.device)  # (W,)
        # padding is scattered to a column behind the last
        target = self.columns.where(self.real, width)  # (B, W)
        return found.scatter_(1, target, order.expand_as(self.columns))[:, :width]


@checked
@dataclass(frozen=True)
class KeptLayers:
    """The columns of prompts that the layers of a language model have kept after reading them.

    Attributes:
        stages: after how many layers tokens were dropped.
        width: L, of the full prompts.
        views: what is read before the first stage, and after each.
    """

    stages: list[int]
    width: int
    views: list[KeptColumns]

    @property
    def read(self) -> int:
        """Return how many columns of each prompt the first layer reads."""
        return self.views[0].columns.shape[1]

    def in_first(self, view: KeptColumns) -> Tensor:
        """Return (B, W) which of the columns that the first layer reads those of a view are."""
        return self.views[0].find(self.width).gather(1, view.columns)

    def resumed(self, decoder: PreTrainedModel) -> AbstractContextManager[None]:
        """Let the language model read on from its cache, while open."""
        return ResumedDecoder(decoder, self).entering()


@checked
class ResumedDecoder:
    """A language model that reads on from a cache whose layers hold different tokens.

    Args:
        decoder: the language model.
        kept: what its layers read.
    """

    def __init__(self, decoder: PreTrainedModel, kept: KeptLayers) -> None:
        self.decoder = decoder
        self.layers = layers_of(decoder)
        self.kept = kept
        self.stages = kept.stages
        self.width = kept.width
        self.views = kept.views
        self.masks: dict[bool, Mask] = {}
        self.mask: Tensor | None = None
        # whether the model reads these prompts now, not others; and the caches of others
        self.reading = False
        self.others: WeakSet[Cache] = WeakSet()

    @contextmanager
    def entering(self) -> Iterator[None]:
        """Let the layers read what `enter` says while open, in the thread that opened it."""
        self.thread = get_ident()
        with ExitStack() as hooks:
            handle = self.decoder.register_forward_pre_hook(self.begin, with_kwargs=True)
            hooks.callback(handle.remove)
            # each layer after the first stage
            for stage, (start, end) in enumerate(pairwise([*self.stages, len(self.layers)])):
                for index in range(start, end):
                    enter = partial(self.enter, stage, index)
                    handle = self.layers[index].register_forward_pre_hook(enter, with_kwargs=True)
                    hooks.callback(handle.remove)
            yield

    def begin(self, decoder: nn.Module, args: Args, kwargs: Kwargs) -> None:
        """Note the mask (B, all tokens so far) that the model was called with."""
        if get_ident() == self.thread:
            mask = kwargs.get("attention_mask")
            self.mask = mask if isinstance(mask, Tensor) and mask.dim() == 2 else None

    def enter(
        self, stage: int, index: int, layer: nn.Module, args: Args, kwargs: Kwargs
    ) -> tuple[Args, Kwargs] | None:
        """Return what layer `index`, which comes after a stage, reads: a mask of its own tokens."""
        cache: Cache | None = kwargs.get("past_key_values")
        if self.is_other(index, cache):
            return None
        args, kwargs = self.shortened(stage, index, layer, args, kwargs)
        if index == self.stages[stage]:
            self.masks = {}
        hidden: Tensor = args[0]  # (B, W, D)
        changed = {"attention_mask": self._mask(self.views[stage + 1], index, hidden, cache)}
        # The rotary embedding holds the positions; from position_ids with gaps flash attention
        # would infer packed prompts.
        changed["position_ids"] = None
        return args, kwargs | changed

    def shortened(
        self, stage: int, index: int, layer: nn.Module, args: Args, kwargs: Kwargs
    ) -> tuple[Args, Kwargs]:
        """Return the arguments of a layer without what a stage drops; here nothing is dropped."""
        return args, kwargs

    def is_other(self, index: int, cache: Cache | None) -> bool:
        """Return whether layer `index` reads other prompts, such as one without its images."""
        if get_ident() != self.thread:
            return True
        if cache is not None and cache.get_seq_length(index):
            return cache in self.others
        if cache is not None and not self.reading:
            self.others.add(cache)
        return not self.reading

    def _mask(self, view: KeptColumns, index: int, hidden: Tensor, cache: Cache | None) -> Mask:
        """Return the model's own kind of mask, of what a layer has in its cache and reads now."""
        sliding = self._is_sliding(index)
        if sliding not in self.masks:
            real = self._real(view, index, hidden, cache)
            real = None if real is None else real.to(hidden.device)
            make = create_sliding_window_causal_mask if sliding else create_causal_mask
            self.masks[sliding] = make(self.decoder.config, hidden, real, cache, layer_idx=index)
        return self.masks[sliding]

    def _is_sliding(self, index: int) -> bool:
        """Return whether a layer attends within a sliding window."""
        types = getattr(self.decoder.config, "layer_types", None)
        if types:
            return bool(types[index] == "sliding_attention")
        return bool(getattr(self.decoder.config, "sliding_window", None))

    def _real(
        self, view: KeptColumns, index: int, hidden: Tensor, cache: Cache | None
    ) -> Tensor | None:
        """Return (B, W + answer) true where a token is no padding; None: all are real."""
        if view.full and self.mask is None:
            return None
        # tokens of the answer that follow the prompt
        cached = 0 if cache is None else cache.get_seq_length(index)
        answer = hidden.shape[1] + cached - view.real.shape[1]
        copies = len(hidden) // len(view.real)

        real = F.pad(view.real, (0, answer), value=True)  # (prompts, W + answer)
        real = real.repeat_interleave(copies, 0)  # (B, W + answer)
        if self.mask is not None:
            columns = extended(self.kept.in_first(view), self.kept.read, answer)
            columns = columns.repeat_interleave(copies, 0)  # (B, W + answer)
            real = real & self.mask.to(columns.device).bool().gather(1, columns)
        return real


@checked
def extended(index: Tensor, start: int, count: int) -> Tensor:
    """Return an index (B, W) continued by `start`, `start` + 1, …: (B, W + count)."""
    more = torch.arange(start, start + count, device=index.device)  # (count,)
    return torch.cat([index, more.expand(len(index), count)], dim=1)
