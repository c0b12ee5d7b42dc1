"""A language model that reads fewer visual tokens from layer to layer.

Hidden states, positions, masks and cache of a layer are those of the tokens that it reads. Letters:
B rows, L columns of the full prompts, W of those that a layer reads, H heads, M raters.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from threading import get_ident
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from transformers import Cache, PreTrainedModel

from adafv.core.capture import Shown, observe
from adafv.core.inputs import has_images
from adafv.core.pruned_inputs import PrunedOutputs
from adafv.core.resumed_decoder import KeptColumns, KeptLayers, ResumedDecoder, extended
from adafv.core.selection import first
from adafv.core.shorter_prompt import ShorterPrompt
from adafv.core.visual_tokens import Encoding
from adafv.ops.precision import full_precision
from adafv.ops.saliency import attention_rows
from adafv.utils.checks import checked

__all__ = ["LayerwiseDecoder", "Raters"]

Args = tuple[Any, ...]
Kwargs = dict[str, Any]
Raters = list[tuple[Tensor, Tensor]]
"""For each image positions (M,) in its prompt, and weights (M,)."""


class _Answered(Exception):
    """A layer has shown its queries and keys."""


@checked
class LayerwiseDecoder(ResumedDecoder):
    """A language model on its way through a batch of prompts, and through the answers to them.

    Args:
        encoding: the prompts and their images.
        decoder: the language model.
        readers: the modules that call it, which are told the encoded images.
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
        readers: Iterable[nn.Module],
        stages: list[int],
        plans: list[list[int]],
        raters: Raters,
        in_prompt: Callable[[list[Tensor]], list[tuple[int, Tensor]]],
        group: dist.ProcessGroup | None = None,
        ahead: bool = False,
    ) -> None:
        self.encoding = encoding
        self.readers = list(readers)
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
        self.reading = True

        # the layers whose attention ranks
        self.watched: set[nn.Module] = set()
        for stage in stages:
            layer = self.layers[stage if ahead else stage - 1]
            self.watched.update(layer.modules())
        self.seen: list[Shown] = []
        self.asking = False
        # by stage, which of the columns of the first layer are read after it, (B, W + answer)
        self.columns: list[Tensor] = []
        # whether it was these prompts that the model has read, and others with images
        self.found = False
        self.strange = False

    @contextmanager
    def hooked(self) -> Iterator[None]:
        """Let the language model read fewer visual tokens after every stage, while open.

        In the thread that opened it, or in the one in which the model is handed these prompts.
        """
        with (
            observe(self.decoder, self.observe, lambda: get_ident() == self.thread),
            self.entering(),
            ExitStack() as hooks,
        ):
            for reader in self.readers:
                handle = reader.register_forward_pre_hook(self.notice, with_kwargs=True)
                hooks.callback(handle.remove)
            yield
        if self.strange and not self.found:
            raise ValueError(
                "the model has read images of another encoding, and nothing was pruned between its "
                "layers: pass what `prune` returns of the encoding that this was opened with"
            )

    def notice(self, reader: nn.Module, args: Args, kwargs: Kwargs) -> None:
        """Note whether the model is about to read these prompts, and in which thread."""
        outputs = kwargs.get("mm_encoder_outputs")
        if isinstance(outputs, PrunedOutputs) and outputs.encoding == self.encoding.number:
            self.thread = get_ident()
            self.reading = True
            self.found = True
        if get_ident() != self.thread:
            return
        if isinstance(outputs, PrunedOutputs):
            # a copy on another device is told by what was noted of the original
            if outputs.encoding is not None:
                self.reading = outputs.encoding == self.encoding.number
                self.strange |= not self.reading
        elif reader is self.readers[-1]:
            self.reading = False
            if outputs or has_images(kwargs):
                raise ValueError(
                    "the model reads images that this pruner has not encoded, or not all of them "
                    "at once: pass what `prune` returns of this encoding, without "
                    "prefill_chunk_size, since pruning between layers needs the full prompt in one "
                    "pass"
                )

    def observe(self, shown: Shown) -> None:
        """Note query and key (B, heads, W, d) of a layer whose attention ranks."""
        prefill = self.reading and shown.query.shape[2] > 1
        if shown.module in self.watched and prefill and (self.asking or not self.ahead):
            self.seen = [shown]
            if self.asking:
                raise _Answered

    def shortened(
        self, stage: int, index: int, layer: nn.Module, args: Args, kwargs: Kwargs
    ) -> tuple[Args, Kwargs]:
        """Return the arguments of a layer without the tokens of the prompts that a stage drops."""
        cache: Cache | None = kwargs.get("past_key_values")
        if cache is not None and cache.get_seq_length(index):
            return args, kwargs
        rotary = kwargs["position_embeddings"]
        # the first layer after a stage drops tokens, those behind it follow
        if index == self.stages[stage]:
            if self.ahead:
                self._ask(stage, layer, args, kwargs)
            args = (self._prune(stage, args[0], rotary[0].shape[1]), *args[1:])
        return args, kwargs | {"position_embeddings": _rotary(rotary, self.columns[stage])}

    def _prune(self, stage: int, hidden: Tensor, width: int) -> Tensor:
        """Return the hidden states (B, W, D) of the prompts, without what this stage drops.

        They may be followed by an answer, which is kept.

        Args:
            width: how many columns the first layer has read.
        """
        answer = width - self.kept.read
        if answer < 0:
            raise ValueError(
                f"the model reads {width} of the prompt's {self.kept.read} tokens at once: pruning "
                "between layers needs the full prompt in one pass"
            )

        before = self.views[stage]
        copies = len(hidden) // len(before.columns)  # of each prompt, for beams and samples
        with torch.no_grad(), full_precision(hidden.device):
            after = self._view(self._highest_rated(stage, before, copies))

            # from columns that the layer before has read to those that are left
            index = before.find(self.width).gather(1, after.columns)  # (prompts, W)
            index = extended(index, before.columns.shape[1], answer)
            index = index.repeat_interleave(copies, 0)  # (B, W + answer)
            columns = extended(self.kept.in_first(after), self.kept.read, answer)
            columns = columns.repeat_interleave(copies, 0)  # (B, W + answer)
        self.views[stage + 1] = after
        self.columns[stage:] = [columns]
        return _take(hidden, index.to(hidden.device))

    def _ask(self, stage: int, layer: nn.Module, args: Args, kwargs: Kwargs) -> None:
        """Let a layer read what comes in until its queries and keys are seen, and no further."""
        asked = kwargs | {"past_key_values": None, "use_cache": False}
        if stage:
            rotary = _rotary(kwargs["position_embeddings"], self.columns[stage - 1])
            asked["position_embeddings"] = rotary
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
        shown = self.seen.pop()
        query, key = shown.query, shown.key  # (B, heads, W, d)
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
            rows = attention_rows(
                q, k, shown.scale, sees.to(query.device), shown.softcap, shown.sinks
            )  # (M, W)
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


def _take(x: Tensor, index: Tensor) -> Tensor:
    """Return the entries (B, W, D) of some columns (B, W) of (B or 1, …, D)."""
    return x.expand(len(index), -1, -1).take_along_dim(index[..., None], dim=1)


def _rotary(full: tuple[Tensor, ...], columns: Tensor) -> tuple[Tensor, ...]:
    """Return a layer's rotary embedding of some columns (B, W) of those the first layer reads."""
    return tuple(_take(part, columns.to(part.device)) for part in full)
