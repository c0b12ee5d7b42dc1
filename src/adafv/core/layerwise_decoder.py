"""A language model that reads fewer visual tokens from layer to layer: hidden states, positions,
masks and cache.
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
from transformers import PreTrainedModel
from transformers.masking_utils import create_causal_mask, create_sliding_window_causal_mask

from adafv.core.capture import observe
from adafv.core.pruner import first
from adafv.core.visual_tokens import Encoding
from adafv.families.base import layers_of
from adafv.ops.precision import full_precision
from adafv.ops.saliency import attention_rows
from adafv.utils.checks import checked

__all__ = ["KeptColumns", "KeptLayers", "LayerwiseDecoder", "Raters", "ResumedDecoder"]

Raters = list[tuple[Tensor, Tensor]]


class _Answered(Exception):
    """A layer has shown its queries and keys."""


@checked
@dataclass(frozen=True)
class KeptColumns:
    """What a layer reads of the prompts.

    Attributes:
        kept: for each image which of its droppable tokens.
        columns: (B, W) columns of the whole prompts, padded with 0.
        real: (B, W), false where padded.
        full: nothing is padded.
    """

    kept: list[Tensor]
    columns: Tensor
    real: Tensor
    full: bool

    def place(self, width: int) -> Tensor:
        """(B, width) where each column of the whole prompts is in this view."""
        places = self.columns.new_zeros(len(self.columns), width + 1)
        order = torch.arange(self.columns.shape[1], device=places.device).expand_as(self.columns)
        return places.scatter_(1, self.columns.where(self.real, width), order)[:, :width]


@checked
@dataclass(frozen=True)
class KeptLayers:
    """What the layers of a language model have kept of prompts, once they have read them.

    Attributes:
        stages: after how many layers tokens were dropped.
        width: of the whole prompts.
        views: what is read before the first stage, and after each.
    """

    stages: list[int]
    width: int
    views: list[KeptColumns]

    def resumed(self, decoder: PreTrainedModel) -> AbstractContextManager[None]:
        """While open, the language model reads on from its cache."""
        return ResumedDecoder(decoder, self).entering()


@checked
class LayerwiseDecoder:
    """A language model on its way through a batch of prompts, and through the answers to them.

    Args:
        encoding: the prompts and their images.
        decoder: the language model.
        stages: after how many of its layers tokens are dropped.
        plans: for each image how many of its tokens are left after each stage.
        raters: for each image whose attention ranks its tokens.
        stay: from the droppable tokens that each image keeps to its row and the positions in the
            prompt that stay.
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
        stay: Callable[[list[Tensor]], list[tuple[int, Tensor]]],
        group: Any = None,
        ahead: bool = False,
    ) -> None:
        self.ahead = ahead
        self.encoding, self.decoder, self.stay, self.group = encoding, decoder, stay, group
        self.stages, self.plans, self.raters = stages, plans, raters
        self.layers, self.width = layers_of(decoder), encoding.prompt.ids.shape[1]
        self.watched = {
            module
            for stage in stages
            for module in self.layers[stage if ahead else stage - 1].modules()
        }
        device = encoding.tokens.features.device
        whole = self._view([torch.arange(n, device=device) for n in encoding.tokens.counts])
        self.views = [whole] * (len(stages) + 1)
        self.seen: list[tuple[Tensor, Tensor, float]] = []
        self.masks: dict[bool, Any] = {}
        self.rotary: tuple[Tensor, ...] = ()
        self.asking = False
        self.given: Tensor | None = None

    @property
    def kept(self) -> KeptLayers:
        """What the layers have kept, once the prompts are read."""
        return KeptLayers(self.stages, self.width, self.views)

    @contextmanager
    def hooked(self) -> Iterator[None]:
        """While open, the language model reads the prompts with fewer visual tokens after every
        stage.
        """
        with observe(self.decoder, self.observe), self.entering():
            yield

    @contextmanager
    def entering(self) -> Iterator[None]:
        """While open, the layers read what `enter` says, in the thread that opened it."""
        self.thread = get_ident()
        with ExitStack() as hooks:
            hooks.callback(
                self.decoder.register_forward_pre_hook(self.begin, with_kwargs=True).remove
            )
            for stage, (start, end) in enumerate(pairwise([*self.stages, len(self.layers)])):
                for index in range(start, end):
                    hook = partial(self.enter, stage, index)
                    hooks.callback(
                        self.layers[index].register_forward_pre_hook(hook, with_kwargs=True).remove
                    )
            yield

    def begin(self, decoder: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        """Note the mask (B, all tokens so far) that the model was called with."""
        if get_ident() == self.thread:
            mask = kwargs.get("attention_mask")
            self.given = mask if isinstance(mask, Tensor) and mask.dim() == 2 else None

    def observe(
        self, module: nn.Module, query: Tensor, key: Tensor, scale: float, mask: Tensor | None
    ) -> None:
        if module in self.watched and query.shape[2] > 1 and (self.asking or not self.ahead):
            self.seen = [(query.detach(), key.detach(), scale)]
            if self.asking:
                raise _Answered

    def enter(
        self, stage: int, index: int, layer: nn.Module, args: Any, kwargs: dict[str, Any]
    ) -> tuple[Any, Any] | None:
        """What layer `index`, which comes after a stage, reads instead of the whole prompts."""
        if get_ident() != self.thread:
            return None
        hidden, past = args[0], kwargs.get("past_key_values")
        prefill = past is None or not past.get_seq_length(index)
        if index == self.stages[stage]:
            self.masks = {}
            if prefill:
                if self.ahead:
                    self._ask(stage, layer, args, kwargs)
                hidden = self._prune(stage, hidden, kwargs["position_embeddings"])
        changed = {"attention_mask": self._mask(self.views[stage + 1], index, hidden, past)}
        # The rotary embedding tells positions; from position_ids with gaps flash attention would
        # infer packed prompts.
        changed["position_ids"] = None
        if prefill:
            changed["position_embeddings"] = self.rotary
        return (hidden, *args[1:]), kwargs | changed

    def _ask(self, stage: int, layer: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        """Let a layer read what comes in until its queries and keys are seen, and no further."""
        before = {"position_embeddings": self.rotary} if stage else {}
        self.asking = True
        try:
            with torch.no_grad():
                layer.forward(
                    *args, **kwargs | before | {"past_key_values": None, "use_cache": False}
                )
        except _Answered:
            pass
        finally:
            self.asking = False

    def _prune(self, stage: int, hidden: Tensor, rotary: tuple[Tensor, ...]) -> Tensor:
        """(B, W, D) hidden states of the prompts, perhaps followed by an answer, without what this
        stage drops.
        """
        answer = rotary[0].shape[1] - self.width
        if answer < 0:
            raise ValueError(
                f"the model reads {rotary[0].shape[1]} of the prompt's {self.width} tokens at once: pruning between "
                "layers needs the whole prompt in one pass, leave prefill_chunk_size out"
            )
        before = self.views[stage]
        copies = len(hidden) // len(before.columns)
        with torch.no_grad(), full_precision(hidden.device):
            after = self._view(self._best(stage, before, copies))
            steps = before.place(self.width).gather(1, after.columns)
            steps = _follow(steps, before.columns.shape[1], answer).repeat_interleave(copies, 0)
            columns = _follow(after.columns, self.width, answer).repeat_interleave(copies, 0)
        self.views[stage + 1] = after
        self.rotary = tuple(_take(part, columns) for part in rotary)
        return _take(hidden, steps)

    def _best(self, stage: int, before: KeptColumns, copies: int) -> list[Tensor]:
        """For each image the tokens that stay: those with the highest weighted sum of the raters'
        attention.
        """
        query, key, scale = self.seen.pop()
        place, width, kept = before.place(self.width), before.columns.shape[1], []
        for i, (span, plan) in enumerate(zip(self.encoding.spans, self.plans, strict=True)):
            row, (raters, weights) = span.row, self.raters[i]
            raters = place[row, raters.to(place.device, non_blocking=True)]
            columns = span.positions.to(place.device, non_blocking=True)[
                self.encoding.patch_indices[i][before.kept[i]]
            ]
            sees = before.real[row] & (torch.arange(width, device=place.device) <= raters[:, None])
            q, k = query[row * copies][:, raters], key[row * copies][:, :width]
            score = (weights @ attention_rows(q, k, scale, sees))[place[row, columns]]
            if self.group is not None:
                dist.all_reduce(score, group=self.group)
            order = score.sort(descending=True, stable=True).indices
            kept.append(before.kept[i][first(order[None], [plan[stage]])[0]])
        return kept

    def _view(self, kept: list[Tensor]) -> KeptColumns:
        prompt, stay = self.encoding.prompt, self.stay(kept)
        columns, exists = prompt.columns(stay, kept[0].device)
        real = prompt.gathered(prompt.mask, columns) & exists
        count = int((prompt.mask & ~prompt.placeholder).sum()) + sum(
            len(positions) for _, positions in stay
        )
        return KeptColumns(kept, columns, real, full=count == real.numel())

    def _mask(self, view: KeptColumns, index: int, hidden: Tensor, past: Any) -> Any:
        """The model's own kind of mask, of the tokens that a layer has in its cache and reads now."""
        config = self.decoder.config
        types = getattr(config, "layer_types", None)
        sliding = (
            (types[index] == "sliding_attention")
            if types
            else getattr(config, "sliding_window", None)
        )
        if (sliding := bool(sliding)) not in self.masks:
            real = None
            if not view.full or self.given is not None:
                answer = (
                    hidden.shape[1]
                    - view.real.shape[1]
                    + (0 if past is None else past.get_seq_length(index))
                )
                copies = len(hidden) // len(view.real)
                # (B, W + answer)
                real = F.pad(view.real, (0, answer), value=True).repeat_interleave(copies, 0)
                if self.given is not None:
                    columns = _follow(view.columns, self.width, answer).repeat_interleave(copies, 0)
                    real = real & self.given.bool().gather(1, columns)
            make = create_sliding_window_causal_mask if sliding else create_causal_mask
            self.masks[sliding] = make(config, hidden, real, past, layer_idx=index)
        return self.masks[sliding]


@checked
class ResumedDecoder(LayerwiseDecoder):
    """A language model that reads on from a cache whose layers hold different tokens."""

    def __init__(self, decoder: PreTrainedModel, kept: KeptLayers) -> None:
        self.decoder, self.layers = decoder, layers_of(decoder)
        self.stages, self.width, self.views = kept.stages, kept.width, kept.views
        self.masks, self.given = {}, None


def _follow(index: Tensor, start: int, count: int) -> Tensor:
    """(B, W + count) an index that goes on from `start`."""
    more = torch.arange(start, start + count, device=index.device)
    return torch.cat([index, more.expand(len(index), count)], dim=1)


def _take(x: Tensor, index: Tensor) -> Tensor:
    """(B, W, D) rows (B, W) of each sample of (B or 1, …, D)."""
    return x.expand(len(index), -1, -1).take_along_dim(index[..., None], dim=1)
