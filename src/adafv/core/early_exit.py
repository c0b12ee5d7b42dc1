"""Leave a vision tower early: above the last layer that anyone looks at nothing is computed."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from threading import RLock
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from adafv.core.capture import FULL_ATTENTION
from adafv.core.signals import Signal
from adafv.families.base import hidden_index, layers_of
from adafv.utils.checks import checked

__all__ = ["without_later_layers"]

_lock = RLock()  # a layer is the model's, whichever thread runs it
_last: ContextVar[list[Any] | None] = ContextVar("adafv_last", default=None)


@checked
@contextmanager
def without_later_layers(
    tower: PreTrainedModel, layer: int, signals: Iterable[Signal]
) -> Iterator[None]:
    """Compute no layer of a vision tower above those that are looked at, while open.

    The layers above hand on what the last one returned, in the thread that opened it; one thread at
    a time.

    Args:
        tower: the vision tower.
        layer: which of `hidden_states` the features are taken from (LLaVA: -2).
        signals: what is read off the tower.
    """
    if layer == -1:
        yield
        return

    # the deepest layer that anyone looks at
    layers = layers_of(tower)
    of_features = max(0, hidden_index(layer, len(layers)) - 1)
    full = getattr(tower.config, FULL_ATTENTION, None)
    last = of_features
    for signal in signals:
        last = max(last, signal.layer(len(layers), of_features, full))
    later = layers[last + 1 :]

    with _lock:
        # a layer may have a forward of its own already
        own: list[Any] = [vars(above).get("forward") for above in later]
        handle = layers[last].register_forward_hook(_note_last)
        token = _last.set([None])
        try:
            for above in later:
                above.forward = _handing_on(above)
            yield
        finally:
            _last.reset(token)
            handle.remove()
            for above, forward in zip(later, own, strict=True):
                del above.forward
                if forward is not None:
                    above.forward = forward


def _note_last(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
    last = _last.get()
    if last is not None:
        last[0] = output


def _handing_on(layer: nn.Module) -> Callable[..., Any]:
    """Return a forward that hands on what the last layer returned, in the thread that noted it."""
    forward: Callable[..., Any] = layer.forward

    @wraps(forward)
    def hand_on(*args: Any, **kwargs: Any) -> Any:
        last = _last.get()
        return forward(*args, **kwargs) if last is None else last[0]

    return hand_on
