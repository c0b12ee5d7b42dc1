"""The vision tower's attention, read on the way past: no eager attention, no attention map in memory."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from adafv.scores import cls_attention, received_attention

__all__ = ["Saliency", "capture_saliency"]

PREFIX = "adafv_"


@dataclass
class Saliency:
    """What a capture sees; `scores` is (crops, patches) fp32 once the tower has run."""

    layer: nn.Module
    has_cls: bool
    scores: Tensor = field(init=False)

    def observe(self, module: nn.Module, query: Tensor, key: Tensor, scale: float | None) -> None:
        if any(module is part for part in self.layer.modules()):
            scale = query.shape[-1] ** -0.5 if scale is None else scale
            self.scores = (cls_attention if self.has_cls else received_attention)(query, key, scale)


_observer: ContextVar[Saliency | None] = ContextVar("adafv_saliency", default=None)


@contextmanager
def capture_saliency(tower: PreTrainedModel, layer: int, has_cls: bool) -> Iterator[Saliency]:
    """While open, the attention of one layer of a vision tower is summarised as the tower runs.

    The tower's own attention function (SDPA, flash, eager) still computes the features, which stay bit-identical;
    beside it one CLS row is computed (or, without CLS, the attention every patch receives).

    Args:
        tower: the vision tower.
        layer: which of `hidden_states` the features are taken from, as in `vision_feature_layer` (LLaVA: -2). The
            attention is that of the layer which produces it.
        has_cls: the first token of the tower is CLS.

    Raises:
        ValueError: the tower has no stack of layers, or an attention that cannot be observed.
    """
    layers = _layers(tower)
    if not -len(layers) <= layer <= len(layers) or layer == 0:
        raise ValueError(f"vision_feature_layer={layer} has no attention: the tower has {len(layers)} layers")
    saliency = Saliency(layers[layer - 1 if layer > 0 else layer], has_cls)
    before = tower.config._attn_implementation
    tower.set_attn_implementation(_observed(before))
    token = _observer.set(saliency)
    try:
        yield saliency
    finally:
        _observer.reset(token)
        tower.set_attn_implementation(before)


def _layers(tower: PreTrainedModel) -> nn.ModuleList:
    count = tower.config.num_hidden_layers
    for module in tower.modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return module
    raise ValueError(f"no stack of {count} layers in {type(tower).__name__}: its attention cannot be observed")


def _observed(name: str) -> str:
    """Register, once per attention function, a twin that also shows q and k to the observer."""
    twin = PREFIX + name
    if twin not in ALL_ATTENTION_FUNCTIONS:

        def attention(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, *args, **kwargs):
            if (observer := _observer.get()) is not None:
                observer.observe(module, query, key, kwargs.get("scaling"))
            return _plain(name, module)(module, query, key, value, *args, **kwargs)

        AttentionInterface.register(twin, attention)
        if name in ALL_MASK_ATTENTION_FUNCTIONS:
            AttentionMaskInterface.register(twin, ALL_MASK_ATTENTION_FUNCTIONS[name])
    return twin


def _plain(name: str, module: nn.Module) -> Callable:
    if name == "eager":
        return sys.modules[type(module).__module__].eager_attention_forward
    return ALL_ATTENTION_FUNCTIONS[name]
