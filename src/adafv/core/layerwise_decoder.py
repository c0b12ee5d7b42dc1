"""A language model that reads fewer visual tokens from layer to layer.

Hidden states, positions, masks and cache of a layer are those of the tokens that it reads. Letters:
B rows, L columns of the full prompts, W of those that a layer reads, H heads, M raters.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from threading import get_ident
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask
from transformers import Cache, PreTrainedModel
from transformers.masking_utils import create_causal_mask, create_sliding_window_causal_mask

from adafv.core.capture import observe
from adafv.core.selection import first
from adafv.core.shorter_prompt import ShorterPrompt
from adafv.core.visual_tokens import Encoding
from adafv.families.base import layers_of
from adafv.ops.precision import full_precision
from adafv.ops.saliency import attention_rows
from adafv.utils.checks import checked

__all__ = ["KeptColumns", "KeptLayers", "LayerwiseDecoder", "Raters", "ResumedDecoder"]

Args = tuple[Any, ...]
Kwargs = dict[str, Any]
Raters = list[tuple[Tensor, Tensor]]
"""For each image positions (M,) in its prompt, and weights (M,)."""


Mask = Tensor | BlockMask | None
"""What transformers makes of a mask, for one attention function or another."""


class _Answered(Exception):
    """A layer has shown its queries and keys."""


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
        self.stages = kept.stages
        self.width = kept.width
        self.views = kept.views
        self.masks: dict[bool, Mask] = {}
        self.mask: Tensor | None = None

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
        if get_ident() != self.thread:
            return None
        if index == self.stages[stage]:
            self.masks = {}
        hidden: Tensor = args[0]  # (B, W, D)
        cache: Cache | None = kwargs.get("past_key_values")
        changed = {"attention_mask": self._mask(self.views[stage + 1], index, hidden, cache)}
        # The rotary embedding holds the positions; from position_ids with gaps flash attention
        # would infer packed prompts.
        changed["position_ids"] = None
        return args, kwargs | changed

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
            columns = _extended(view.columns, self.width, answer).repeat_interleave(copies, 0)
            real = real & self.mask.to(columns.device).bool().gather(1, columns)
        return real


@checked
class LayerwiseDecoder(ResumedDecoder):
    """A language model on its way through a batch of prompts, and through the answers to them.

    Args:
        encoding: the prompts and their images.
        decoder: the language model.
        stages: after how many of its layers tokens are dropped.
        plans: for each image how many of its tokens are left after each stage.
        raters: for each image whose attention ranks its tokens.
        in_prompt: from the indices that each image keeps of its patches' tokens to its row and the
            positions in the prompt that are kept.
        group: the processes that hold the heads of the language model, where it is split over
            several.
        ahead: the attention that ranks is that of the layer after a stage, asked before it reads;
            else that of the layer before.
    """

    def __init__(
        self,
        encoding: Encoding,
        decoder: PreTrainedModel,
        stages: list[int],
        plans: list[list[int]],
        raters: Raters,
        in_prompt: Callable[[list[Tensor]], list[tuple[int, Tensor]]],
        group: dist.ProcessGroup | None = None,
        ahead: bool = False,
    ) -> None:
        self.encoding = encoding
        self.in_prompt = in_prompt
        self.plans = plans
        self.raters = raters
        self.group = group
        self.ahead = ahead

        # before the first stage every token is read
        device = encoding.tokens.device
        everything = [torch.arange(n, device=device) for n in encoding.tokens.counts]
        views = [self._view(everything)] * (len(stages) + 1)
        super().__init__(decoder, KeptLayers(stages, encoding.prompt.ids.shape[1], views))

        # the layers whose attention ranks
        self.watched: set[nn.Module] = set()
        for stage in stages:
            layer = self.layers[stage if ahead else stage - 1]
            self.watched.update(layer.modules())
        self.seen: list[tuple[Tensor, Tensor, float]] = []
        self.rotary: tuple[Tensor, ...] = ()
        self.asking = False

    @property
    def kept(self) -> KeptLayers:
        """Return what the layers have kept, once the prompts are read."""
        return KeptLayers(self.stages, self.width, self.views)

    @contextmanager
    def hooked(self) -> Iterator[None]:
        """Let the language model read fewer visual tokens after every stage, while open."""
        with observe(self.decoder, self.observe), self.entering():
            yield

    def observe(
        self, module: nn.Module, query: Tensor, key: Tensor, scale: float, mask: Tensor | None
    ) -> None:
        """Note query and key (B, heads, W, d) of a layer whose attention ranks."""
        prefill = query.shape[2] > 1
        if module in self.watched and prefill and (self.asking or not self.ahead):
            self.seen = [(query.detach(), key.detach(), scale)]
            if self.asking:
                raise _Answered

    def enter(
        self, stage: int, index: int, layer: nn.Module, args: Args, kwargs: Kwargs
    ) -> tuple[Args, Kwargs] | None:
        """Return what layer `index`, which comes after a stage, reads instead of all tokens."""
        if get_ident() != self.thread:
            return None
        cache: Cache | None = kwargs.get("past_key_values")
        prefill = cache is None or not cache.get_seq_length(index)
        if prefill:
            # the first layer after a stage drops tokens, those behind it follow
            if index == self.stages[stage]:
                if self.ahead:
                    self._ask(stage, layer, args, kwargs)
                hidden = self._prune(stage, args[0], kwargs["position_embeddings"])
                args = (hidden, *args[1:])
            kwargs = kwargs | {"position_embeddings": self.rotary}
        return super().enter(stage, index, layer, args, kwargs)

    def _prune(self, stage: int, hidden: Tensor, rotary: tuple[Tensor, ...]) -> Tensor:
        """Return the hidden states (B, W, D) of the prompts, without what this stage drops.

        They may be followed by an answer, which is kept.
        """
        answer = rotary[0].shape[1] - self.width  # of (B or 1, L + answer, d)
        if answer < 0:
            raise ValueError(
                f"the model reads {rotary[0].shape[1]} of the prompt's {self.width} tokens at "
                "once: pruning between layers needs the full prompt in one pass, leave "
                "prefill_chunk_size out"
            )

        before = self.views[stage]
        copies = len(hidden) // len(before.columns)  # of each prompt, for beams and samples
        with torch.no_grad(), full_precision(hidden.device):
            after = self._view(self._highest_rated(stage, before, copies))

            # from columns that the layer before has read to those that are left
            index = before.find(self.width).gather(1, after.columns)  # (prompts, W)
            index = _extended(index, before.columns.shape[1], answer)
            index = index.repeat_interleave(copies, 0)  # (B, W + answer)
            columns = _extended(after.columns, self.width, answer)
            columns = columns.repeat_interleave(copies, 0)  # (B, W + answer)
        self.views[stage + 1] = after
        self.rotary = tuple(_take(part, columns.to(part.device)) for part in rotary)
        return _take(hidden, index.to(hidden.device))

    def _ask(self, stage: int, layer: nn.Module, args: Args, kwargs: Kwargs) -> None:
        """Let a layer read what comes in until its queries and keys are seen, and no further."""
        asked = kwargs | {"past_key_values": None, "use_cache": False}
        if stage:
            asked["position_embeddings"] = self.rotary
        self.asking = True
        try:
            with torch.no_grad():
                layer.forward(*args, **asked)
        except _Answered:
            pass
        finally:
            self.asking = False

    def _highest_rated(self, stage: int, before: KeptColumns, copies: int) -> list[Tensor]:
        """Return for each image the indices (k,) of the tokens that a stage keeps.

        They have the highest weighted sum of the raters' attention.
        """
        query, key, scale = self.seen.pop()  # (B, heads, W, d)
        device = before.columns.device
        index = before.find(self.width)  # (prompts, L)
        kept: list[Tensor] = []
        for i, (span, plan) in enumerate(zip(self.encoding.spans, self.plans, strict=True)):
            row = span.row
            positions, weights = self.raters[i]  # (M,), (M,)

            # from columns of the full prompt to those that the layer has read
            raters = index[row, positions.to(device, non_blocking=True)]  # (M,)
            chosen = self.encoding.patch_indices[i][before.kept[i]]  # (k,)
            columns = span.positions.to(device, non_blocking=True)[chosen]  # (k,)
            visual = index[row, columns]  # (k,)

            # the attention of the raters; a layer may lie on another device than the first one
            sees = self._sees(stage, raters, before.real[row])  # (M, W)
            q = query[row * copies][:, raters.to(query.device)]  # (H, M, d)
            k = key[row * copies][:, : sees.shape[1]]  # (key heads, W, d)
            rows = attention_rows(q, k, scale, sees.to(query.device))  # (M, W)
            score = (weights.to(rows.device) @ rows)[visual.to(rows.device)]  # (k,)
            if self.group is not None:
                # each process has some of the heads
                dist.all_reduce(score, group=self.group)

            # keep the highest, on ties the lower index
            order = score.sort(descending=True, stable=True).indices.to(device)
            best = first(order[None], [plan[stage]])[0]
            kept.append(before.kept[i][best])
        return kept

    def _sees(self, stage: int, raters: Tensor, real: Tensor) -> Tensor:
        """Return (M, W) what the raters see in the layer that ranks at a stage.

        Each sees itself and what comes before, within the layer's window if it has one.

        Args:
            raters: (M,) their columns.
            real: (W,) false where a column is padding.
        """
        columns = torch.arange(len(real), device=real.device)  # (W,)
        back = raters[:, None] - columns  # (M, W)
        sees = real & (back >= 0)
        if self._is_sliding(self.stages[stage] if self.ahead else self.stages[stage] - 1):
            sees &= back < self.decoder.config.sliding_window
        return sees

    def _view(self, kept: list[Tensor]) -> KeptColumns:
        """Return what is read if each image keeps some of its patches' tokens."""
        prompt = self.encoding.prompt
        in_prompt = self.in_prompt(kept)
        shorter = ShorterPrompt(prompt, in_prompt, kept[0].device)
        real = shorter.real  # (B, W)

        # counted on the host: nothing waits for the device
        count = int((prompt.mask & ~prompt.placeholder).sum())
        count += sum(len(positions) for _, positions in in_prompt)
        return KeptColumns(kept, shorter.index, real, full=count == real.numel())


def _extended(index: Tensor, start: int, count: int) -> Tensor:
    """Return an index (B, W) continued by `start`, `start` + 1, …: (B, W + count)."""
    more = torch.arange(start, start + count, device=index.device)  # (count,)
    return torch.cat([index, more.expand(len(index), count)], dim=1)


def _take(x: Tensor, index: Tensor) -> Tensor:
    """Return the entries (B, W, D) of some columns (B, W) of (B or 1, …, D)."""
    return x.expand(len(index), -1, -1).take_along_dim(index[..., None], dim=1)
