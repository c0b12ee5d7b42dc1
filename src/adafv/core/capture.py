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
    "FULL_ATTENTION",
    "LABEL",
    "Shown",
    "capture",
    "observe",
    "sequences",
]

LABEL = "adafv.core.capture"
"""What profilers call the time that is spent on reading."""
FULL_ATTENTION = "fullatt_block_indexes"
"""Name in the configuration, for towers that attend within windows, of the layers that don't."""

Attention = Callable[..., Any]
"""A function of transformers that computes attention."""


@checked
@dataclass(frozen=True)
class Shown:
    """The tensors and options that an attention is computed from, as its function is called.

    Attributes:
        module: the attention.
        query: (B, heads, Q, d), key: (B, key heads, K, d).
        scale: of their product.
        mask: as the model made it.
        softcap: what bounds the scaled products. None: nothing does.
        sinks: (heads,) a logit of each head that takes attention and stands for no token. None:
            there are none.
    """

    module: nn.Module
    query: Tensor
    key: Tensor
    scale: float
    mask: Tensor | None
    softcap: float | None = None
    sinks: Tensor | None = None


Observer = Callable[[Shown], None]


@dataclass
class _TowerObserver:
    """Collects what the layers of a vision tower show while it runs.

    One call per layer, or one per image of a packed batch. Letters: C crops, P patches of a crop,
    H heads.
    """

    watched: dict[Signal, nn.Module]
    cls: int | None
    registers: int
    seen: dict[Signal, list[Tensor]]

    @torch.no_grad()
    def attention(self, shown: Shown) -> None:
        """Read the signals of a layer off its query and key (C, H, tokens, d)."""
        for signal, layer in self.watched.items():
            if signal.kind == "hidden" or all(shown.module is not part for part in layer.modules()):
                continue
            with record_function(LABEL), full_precision(shown.query.device):
                read = self._read(signal, shown)  # (C, P[, d])
            self.seen.setdefault(signal, []).append(read.detach().flatten(0, 1))  # (C · P[, d])

    def _read(self, signal: Signal, shown: Shown) -> Tensor:
        """Return a signal (C, P[, d]) of a layer."""
        query, key = shown.query, shown.key
        if signal.kind == "keys":
            return self._patches(key.float().mean(1))  # (C, P, d)

        # one key head may serve several query heads
        key = key.repeat_interleave(query.shape[1] // key.shape[1], dim=1)  # (C, H, tokens, d)
        if signal.kind == "attention" and self.cls is not None:
            if self.cls == -1:
                # put CLS first
                query = query.roll(1, dims=2)
                key = key.roll(1, dims=2)
            return cls_attention(query, key, shown.scale)[:, self.registers :]  # (C, P)

        received = received_attention(query, key, shown.scale, shown.mask, heads=signal.heads)
        return self._patches(received)  # (C, P)

    def _patches(self, x: Tensor) -> Tensor:
        """Return (C, P, …) of (C, tokens, …), without CLS and registers."""
        if self.cls == -1:
            return x[:, :-1]
        return x[:, self.registers + (self.cls == 0) :]

    def hook(self, signal: Signal) -> Callable[..., None]:
        """Return a forward hook that collects what a layer puts out."""

        def output(module: nn.Module, inputs: tuple[Any, ...], out: Any) -> None:
            hidden = (out if isinstance(out, Tensor) else out[0]).detach()
            # a packed tower has no dimension of crops
            hidden = hidden if hidden.dim() == 3 else hidden[None]  # (C, tokens, width)
            patches = self._patches(hidden)  # (C, P, width)
            self.seen.setdefault(signal, []).append(patches.flatten(0, 1))  # (C · P, width)

        return output


_lock = RLock()  # attention is looked up in one function, whichever thread runs a model


@dataclass(frozen=True, eq=False)
class _Watch:
    """Who is shown the attention of which modules, and whether of this thread."""

    parts: set[nn.Module]
    observer: Observer
    here: Callable[[], bool]


_watches: list[_Watch] = []  # the open ones, in the order in which they were opened


@checked
@contextmanager
def observe(
    model: PreTrainedModel, observer: Observer, here: Callable[[], bool] | None = None
) -> Iterator[None]:
    """Show q and k of every attention of a model to an observer, while open.

    One thread at a time: others wait until it is closed.

    The model, its configuration and its masks stay as they are, and its own attention function
    (SDPA, flash, flex, the eager one of its file) still computes the outputs, which stay
    bit-identical: only when transformers looks that function up, it is handed over with an
    observer in front, until this is closed.

    Args:
        model: a vision tower or a language model.
        observer: gets what the attention is computed from. Rotary positions are applied, and the
            keys of a cache included. A tower that packs its images into one sequence is shown one
            image, or one window, after the other.
        here: whether the thread that calls it is the one to be observed. None: the one that opened
            this.
    """
    thread = get_ident()
    own = _Watch(set(model.modules()), observer, here or (lambda: get_ident() == thread))

    with _lock:
        interface: Any = AttentionInterface
        if not _watches:
            look_up = interface.get_interface

            @wraps(look_up)
            def observed(self: AttentionInterface, name: str, default: Attention) -> Attention:
                function: Attention = look_up(self, name, default)
                for watch in _watches:
                    if watch.here():
                        function = _shown(function, watch.parts, watch.observer)
                return function

            interface.get_interface = observed
        _watches.append(own)
        try:
            yield
        finally:
            # whichever was opened first may be closed first
            _watches.remove(own)
            if not _watches:
                interface.get_interface = interface.get_interface.__wrapped__


@checked
@contextmanager
def capture(
    tower: PreTrainedModel,
    layer: int,
    cls: int | None,
    signals: Iterable[Signal],
    registers: int = 0,
) -> Iterator[dict[Signal, Tensor]]:
    """Read what `signals` name off a vision tower as it runs, while open.

    The tower's own attention function (SDPA, flash, eager) still computes the features, which stay
    bit-identical; beside it one CLS row is computed (or, if a signal asks, the attention every
    patch receives).

    Args:
        tower: the vision tower.
        layer: which of `hidden_states` the features are taken from, as in `vision_feature_layer`
            (LLaVA: -2). Their layer is the one which produces it.
        cls: which token of the tower is CLS: 0, -1, or None.
        signals: what to read; an empty collection leaves the tower alone.
        registers: how many other tokens stand between CLS and the patches.

    Yields:
        A dict that holds (P,) or (P, d) tensors once the tower has run: all patches of all crops in
        the tower's order, padding included, CLS and registers left out.

    Raises:
        ValueError: the tower has no stack of layers, or an attention that cannot be observed; a
            layer it doesn't have.
    """
    signals = frozenset(signals)
    if not signals:
        yield {}
        return

    # find the layers
    layers = layers_of(tower)
    index = hidden_index(layer, len(layers))
    if index == 0:
        raise ValueError(
            f"vision_feature_layer={layer} has no attention: it is what the tower's first layer "
            "reads. Choose a later layer, or a method that looks at no attention, e.g. divprune"
        )
    full = getattr(tower.config, FULL_ATTENTION, None)
    watched = {s: layers[s.layer(len(layers), index - 1, full)] for s in signals}

    # hidden states from hooks, all else from attention
    observer = _TowerObserver(watched, cls, registers, seen={})
    hooks = []
    for signal, module in watched.items():
        if signal.kind == "hidden":
            hooks.append(module.register_forward_hook(observer.hook(signal)))

    found: dict[Signal, Tensor] = {}
    try:
        with observe(tower, observer.attention):
            yield found
        if len(observer.seen) < len(signals):
            raise ValueError(
                f"the attention of {type(tower).__name__} cannot be observed, since it doesn't "
                "look its function up where transformers keeps them: choose a method that looks at "
                "no attention, e.g. divprune"
            )
        for signal, seen in observer.seen.items():
            found[signal] = torch.cat(seen)  # (all patches[, d])
    finally:
        for handle in hooks:
            handle.remove()


def _shown(function: Attention, parts: set[nn.Module], observer: Observer) -> Attention:
    """Return an attention function that first shows q and k of some modules to an observer."""

    @wraps(function)
    def attention(
        module: nn.Module, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any
    ) -> Any:
        if module in parts:
            scale = kwargs.get("scaling")
            scale = query.shape[-1] ** -0.5 if scale is None else scale
            mask = args[0] if args else kwargs.get("attention_mask")
            if isinstance(mask, BlockMask):
                # flex attention has its mask as a function
                batch, heads, _, _ = mask.shape
                mask = create_mask(
                    mask.mask_mod, batch, heads, query.shape[2], key.shape[2], query.device
                )
            capped, sinks = kwargs.get("softcap"), kwargs.get("s_aux")
            for q, k in sequences(query, key, kwargs.get("cu_seq_lens_q")):
                observer(Shown(module, q, k, scale, mask, capped, sinks))
        return function(module, query, key, value, *args, **kwargs)

    return attention


@checked
def sequences(query: Tensor, key: Tensor, bounds: Tensor | None) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the sequences (B, heads, P, d) that a tower packed into one, given their bounds."""
    if bounds is None:
        yield query, key
        return
    lengths = bounds.diff().tolist()
    yield from zip(query.split(lengths, dim=2), key.split(lengths, dim=2), strict=True)
