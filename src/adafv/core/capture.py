"""What a model attends to, read on the way past: no eager attention, no attention map in memory."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from threading import RLock, get_ident
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask, create_mask
from torch.profiler import record_function
from transformers import AttentionInterface, PreTrainedModel

from adafv.core.signals import Signal
from adafv.families.base import hidden_index, layers_of
from adafv.ops.precision import full_precision
from adafv.ops.saliency import cls_attention, received_attention
from adafv.utils.checks import checked

__all__ = [
    "LABEL",
    "WHOLE",
    "capture",
    "observe",
    "sequences",
]

LABEL = "adafv.core.capture"
"""What profilers call the time that is spent on reading."""
WHOLE = "fullatt_block_indexes"
"""Where the configuration of a tower whose layers attend within windows names those that don't."""

Observer = Callable[[nn.Module, Tensor, Tensor, float, Tensor | None], None]


@dataclass
class _Observer:
    """Collects what the layers show while the tower runs: one call per layer, or one per image of a
    packed batch.
    """

    watched: dict[Signal, nn.Module]
    cls: int | None
    registers: int
    seen: dict[Signal, list[Tensor]]

    @torch.no_grad()
    def attention(
        self, module: nn.Module, query: Tensor, key: Tensor, scale: float, mask: Tensor | None
    ) -> None:
        for signal, layer in self.watched.items():
            if signal.kind != "hidden" and any(module is part for part in layer.modules()):
                with record_function(LABEL), full_precision(query.device):
                    read = self._read(signal, query, key, scale, mask)
                self.seen.setdefault(signal, []).append(read.detach().flatten(0, 1))

    def _read(
        self, signal: Signal, query: Tensor, key: Tensor, scale: float, mask: Tensor | None
    ) -> Tensor:
        if signal.kind == "keys":
            return self._patches(key.float().mean(1))
        key = key.repeat_interleave(query.shape[1] // key.shape[1], dim=1)
        if signal.kind == "attention" and self.cls is not None:
            if self.cls == -1:
                query, key = query.roll(1, dims=2), key.roll(1, dims=2)
            return cls_attention(query, key, scale)[:, self.registers :]
        return self._patches(received_attention(query, key, scale, mask, heads=signal.heads))

    def _patches(self, x: Tensor) -> Tensor:
        """(B, P, …) without CLS and registers."""
        if self.cls == -1:
            return x[:, :-1]
        return x[:, self.registers + (self.cls == 0) :]

    def hook(self, signal: Signal) -> Callable[..., None]:
        def output(module: nn.Module, inputs: Any, out: Any) -> None:
            hidden = (out if isinstance(out, Tensor) else out[0]).detach()
            hidden = hidden if hidden.dim() == 3 else hidden[None]
            self.seen.setdefault(signal, []).append(self._patches(hidden).flatten(0, 1))

        return output


_lock = RLock()  # where attention is looked up is one place, whichever thread runs a model


@checked
@contextmanager
def observe(model: PreTrainedModel, observer: Observer) -> Iterator[None]:
    """While open, q and k of every attention of a model are shown to an observer, in the thread
    that opened it.

    One thread at a time: others wait until it is closed.

    The model, its configuration and its masks stay as they are, and its own attention function
    (SDPA, flash, flex, the eager one of its file) still computes the outputs, which stay
    bit-identical: only where transformers looks that function up, it is handed over with an
    observer in front, until this is closed.

    Args:
        model: a vision tower or a language model.
        observer: gets the attention module, query (B, heads, Q, d), key (B, key heads, K, d), the
            scale of their product, and the mask as the model made it. Rotary positions are applied,
            and the keys of a cache included. A tower that packs its images into one sequence is
            shown one image, or one window, after the other.
    """
    parts, thread = set(model.modules()), get_ident()

    with _lock:
        interface: Any = AttentionInterface
        look_up = interface.get_interface

        def observed(self: AttentionInterface, name: str, default: Callable) -> Callable:
            function = look_up(self, name, default)
            return _shown(function, parts, observer) if get_ident() == thread else function

        interface.get_interface = observed
        try:
            yield
        finally:
            interface.get_interface = look_up


@checked
@contextmanager
def capture(
    tower: PreTrainedModel,
    layer: int,
    cls: int | None,
    signals: Iterable[Signal],
    registers: int = 0,
) -> Iterator[dict[Signal, Tensor]]:
    """While open, what `signals` name is read off a vision tower as it runs.

    The tower's own attention function (SDPA, flash, eager) still computes the features, which stay
    bit-identical; beside it one CLS row is computed (or, where a signal asks, the attention every
    patch receives).

    Args:
        tower: the vision tower.
        layer: which of `hidden_states` the features are taken from, as in `vision_feature_layer`
            (LLaVA: -2). Their layer is the one which produces it.
        cls: which token of the tower is CLS: 0, -1, or None.
        signals: what to read; none leaves the tower alone.
        registers: how many other tokens stand between CLS and the patches.

    Yields:
        A dict that holds (P,) or (P, d) tensors once the tower has run: all patches of all crops in
        the tower's order,
        padding included, CLS and registers left out.

    Raises:
        ValueError: the tower has no stack of layers, or an attention that cannot be observed; a
            layer it doesn't have.
    """
    signals = frozenset(signals)
    if not signals:
        yield {}
        return
    layers = layers_of(tower)
    index = hidden_index(layer, len(layers))
    if index == 0:
        raise ValueError(
            f"vision_feature_layer={layer} has no attention: it is what the tower's first layer reads. Choose a later "
            "layer, or a method that looks at no attention, e.g. divprune"
        )
    whole = getattr(tower.config, WHOLE, None)
    watched = {s: layers[s.layer(len(layers), index - 1, whole)] for s in signals}
    observer = _Observer(watched, cls, registers, {})
    hooks = [
        observer.watched[s].register_forward_hook(observer.hook(s))
        for s in signals
        if s.kind == "hidden"
    ]
    found: dict[Signal, Tensor] = {}
    try:
        with observe(tower, observer.attention):
            yield found
        if len(observer.seen) < len(signals):
            raise ValueError(
                f"the attention of {type(tower).__name__} cannot be observed, since it doesn't look its function up "
                "where transformers keeps them: choose a method that looks at no attention, e.g. divprune"
            )
        found |= {signal: torch.cat(seen) for signal, seen in observer.seen.items()}
    finally:
        for handle in hooks:
            handle.remove()


def _shown(function: Callable, parts: set[nn.Module], observer: Observer) -> Callable:
    """An attention function that first shows q and k of some modules to an observer."""

    @wraps(function)
    def attention(
        module: nn.Module, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any
    ) -> Any:
        if module in parts:
            scale = kwargs.get("scaling")
            scale = query.shape[-1] ** -0.5 if scale is None else scale
            mask = args[0] if args else kwargs.get("attention_mask")
            if isinstance(mask, BlockMask):
                batch, heads, _, _ = mask.shape
                mask = create_mask(
                    mask.mask_mod, batch, heads, query.shape[2], key.shape[2], query.device
                )
            for q, k in sequences(query, key, kwargs.get("cu_seq_lens_q")):
                observer(module, q, k, scale, mask)
        return function(module, query, key, value, *args, **kwargs)

    return attention


@checked
def sequences(query: Tensor, key: Tensor, bounds: Tensor | None) -> Iterator[tuple[Tensor, Tensor]]:
    """The sequences (B, heads, P, d) that a tower packed into one, where it is given their bounds."""
    if bounds is None:
        yield query, key
        return
    lengths = bounds.diff().tolist()
    yield from zip(query.split(lengths, dim=2), key.split(lengths, dim=2), strict=True)
