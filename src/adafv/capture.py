"""What a model attends to, read on the way past: no eager attention, no attention map in memory."""

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from threading import RLock
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.profiler import record_function
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from adafv.scores import cls_attention, received_attention

__all__ = ["HIDDEN", "KEYS", "LABEL", "SALIENCY", "WHOLE", "Signal", "capture", "layers_of", "observe", "sequences"]

PREFIX = "adafv_"
LABEL = "adafv.capture"
"""What profilers call the time that is spent on reading."""
DEPTHS = ("num_hidden_layers", "depth", "num_layers")
WHOLE = "fullatt_block_indexes"
"""Where the configuration of a tower whose layers attend within windows names those that don't."""

Observer = Callable[[nn.Module, Tensor, Tensor, float, Tensor | None], None]


@dataclass(frozen=True)
class Signal:
    """Something of the vision tower that a method looks at, for every patch of every crop.

    Attributes:
        kind: "attention": (N,) attention of CLS to each patch, mean over heads; without CLS the attention received.
            "received": (N,) attention each patch receives, mean over heads and queries.
            "keys": (N, d) its key, mean over heads. "hidden": (N, width) the layer's output.
        depth: of the layer, 0 (the first) to 1 (the last); None: the layer the features are taken from. Where it
            attends within windows, the next layer that sees the whole picture, or the last such one.
        heads: how the heads of "received" are put together: "mean", or "max", the strongest for each query.
    """

    kind: Literal["attention", "received", "keys", "hidden"]
    depth: float | None = None
    heads: Literal["mean", "max"] = "mean"

    def layer(self, count: int, of_features: int, whole: Sequence[int] | None = None) -> int:
        """Index of the layer in a tower of `count`.

        Args:
            of_features: index of the features' layer.
            whole: the layers that see the whole picture. None: all of them.
        """
        if self.depth is None:
            return of_features
        nearest = round(self.depth * (count - 1))
        return min((i for i in whole if i >= nearest), default=max(whole)) if whole else nearest


SALIENCY = Signal("attention")
KEYS = Signal("keys")
HIDDEN = Signal("hidden")


@dataclass
class _Observer:
    """Collects what the layers show while the tower runs: one call per layer, or one per image of a packed batch."""

    watched: dict[Signal, nn.Module]
    cls: int | None
    seen: dict[Signal, list[Tensor]]

    @torch.no_grad()
    def attention(self, module: nn.Module, query: Tensor, key: Tensor, scale: float, mask: Tensor | None) -> None:
        for signal, layer in self.watched.items():
            if signal.kind != "hidden" and any(module is part for part in layer.modules()):
                with record_function(LABEL):
                    read = self._read(signal, query, key, scale, mask)
                self.seen.setdefault(signal, []).append(read.detach().flatten(0, 1))

    def _read(self, signal: Signal, query: Tensor, key: Tensor, scale: float, mask: Tensor | None) -> Tensor:
        if signal.kind == "keys":
            return self._patches(key.float().mean(1))
        key = key.repeat_interleave(query.shape[1] // key.shape[1], dim=1)
        if signal.kind == "attention" and self.cls is not None:
            if self.cls == -1:
                query, key = query.roll(1, dims=2), key.roll(1, dims=2)
            return cls_attention(query, key, scale)
        return self._patches(received_attention(query, key, scale, mask, heads=signal.heads))

    def _patches(self, x: Tensor) -> Tensor:
        """(B, P, …) without CLS."""
        return x if self.cls is None else x[:, 1:] if self.cls == 0 else x[:, :-1]

    def hook(self, signal: Signal) -> Callable[..., None]:
        def output(module: nn.Module, inputs: Any, out: Any) -> None:
            hidden = (out if isinstance(out, Tensor) else out[0]).detach()
            hidden = hidden if hidden.dim() == 3 else hidden[None]
            self.seen.setdefault(signal, []).append(self._patches(hidden).flatten(0, 1))

        return output


_lock = RLock()  # the attention function is the model's, whichever thread runs it
_observer: ContextVar[Observer | None] = ContextVar("adafv_observer", default=None)


@contextmanager
def observe(model: PreTrainedModel, observer: Observer) -> Iterator[None]:
    """While open, q and k of every attention of a model are shown to an observer, in the thread that opened it.

    One thread at a time: others wait until it is closed.

    The model's own attention function (SDPA, flash, eager) still computes the outputs, which stay bit-identical.

    Args:
        model: a vision tower or a language model.
        observer: gets the attention module, query (B, heads, Q, d), key (B, key heads, K, d), the scale of their
            product, and the mask as the model made it. Rotary positions are applied, and the keys of a cache included.
            A tower that packs its images into one sequence is shown one image, or one window, after the other.
    """
    with _lock:
        before = model.config._attn_implementation
        model.set_attn_implementation(_observed(before))
        token = _observer.set(observer)
        try:
            yield
        finally:
            _observer.reset(token)
            model.set_attn_implementation(before)


@contextmanager
def capture(
    tower: PreTrainedModel, layer: int, cls: int | None, signals: Iterable[Signal]
) -> Iterator[dict[Signal, Tensor]]:
    """While open, what `signals` name is read off a vision tower as it runs.

    The tower's own attention function (SDPA, flash, eager) still computes the features, which stay bit-identical;
    beside it one CLS row is computed (or, where a signal asks, the attention every patch receives).

    Args:
        tower: the vision tower.
        layer: which of `hidden_states` the features are taken from, as in `vision_feature_layer` (LLaVA: -2). Their
            layer is the one which produces it.
        cls: which token of the tower is CLS: 0, -1, or None.
        signals: what to read; none leaves the tower alone.

    Yields:
        A dict that holds (P,) or (P, d) tensors once the tower has run: all patches of all crops in the tower's order,
        padding included, CLS left out.

    Raises:
        ValueError: the tower has no stack of layers, or an attention that cannot be observed.
    """
    signals = frozenset(signals)
    if not signals:
        yield {}
        return
    layers = layers_of(tower)
    if not -len(layers) <= layer <= len(layers) or layer == 0:
        raise ValueError(f"vision_feature_layer={layer} has no attention: the tower has {len(layers)} layers")
    of_features = layer - 1 if layer > 0 else len(layers) + layer
    whole = getattr(tower.config, WHOLE, None)
    observer = _Observer({s: layers[s.layer(len(layers), of_features, whole)] for s in signals}, cls, {})
    hooks = [observer.watched[s].register_forward_hook(observer.hook(s)) for s in signals if s.kind == "hidden"]
    found: dict[Signal, Tensor] = {}
    try:
        with observe(tower, observer.attention):
            yield found
        found |= {signal: torch.cat(seen) for signal, seen in observer.seen.items()}
    finally:
        for handle in hooks:
            handle.remove()


def layers_of(model: PreTrainedModel) -> nn.ModuleList:
    """The stack of layers of a vision tower or a language model.

    Raises:
        ValueError: it has none.
    """
    config = model.config
    count = next((n for name in DEPTHS if (n := getattr(config, name, None)) is not None), None)
    for module in model.modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return module
    raise ValueError(f"no stack of {count} layers in {type(model).__name__}: its attention cannot be observed")


def _observed(name: str) -> str:
    """Register, once per attention function, a twin that also shows q and k to the observer."""
    twin = PREFIX + name
    if twin not in ALL_ATTENTION_FUNCTIONS:

        def attention(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, *args, **kwargs):
            if (observer := _observer.get()) is not None:
                scale = kwargs.get("scaling")
                scale = query.shape[-1] ** -0.5 if scale is None else scale
                mask = args[0] if args else kwargs.get("attention_mask")
                for q, k in sequences(query, key, kwargs.get("cu_seq_lens_q")):
                    observer(module, q, k, scale, mask)
            return _plain(name, module)(module, query, key, value, *args, **kwargs)

        AttentionInterface.register(twin, attention)
        if name in ALL_MASK_ATTENTION_FUNCTIONS:
            AttentionMaskInterface.register(twin, ALL_MASK_ATTENTION_FUNCTIONS[name])
    return twin


def sequences(query: Tensor, key: Tensor, bounds: Tensor | None) -> Iterator[tuple[Tensor, Tensor]]:
    """The sequences (B, heads, P, d) that a tower packed into one, where it is given their bounds."""
    if bounds is None:
        yield query, key
        return
    lengths = bounds.diff().tolist()
    yield from zip(query.split(lengths, dim=2), key.split(lengths, dim=2), strict=True)


def _plain(name: str, module: nn.Module) -> Callable:
    if name == "eager":
        return sys.modules[type(module).__module__].eager_attention_forward
    return ALL_ATTENTION_FUNCTIONS[name]
