"""Lend a model a pruner: while a context is open it is of a class whose `generate` and `forward`
prune.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from functools import wraps
from inspect import Parameter, signature
from threading import Lock
from types import MethodType
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

import torch
from torch import nn
from transformers import Cache, PreTrainedModel

from adafv.core.attached_calls import Call, begin, resume
from adafv.core.attached_generation import Caller
from adafv.core.cached_prompt import filled, recall, refuse_unknown, remember
from adafv.core.prompt import has_images
from adafv.families import FAMILIES

if TYPE_CHECKING:
    from adafv.core.pruner import Pruner

__all__ = ["attached"]

LENT = ("forward", "generate")

_lock = Lock()  # two threads may not attach at once
_lent: "WeakSet[nn.Module]" = WeakSet()
# a lent model runs what is its own
_inside: ContextVar[bool] = ContextVar("adafv_inside", default=False)


@contextmanager
def attached(pruner: "Pruner", model: PreTrainedModel) -> Iterator[PreTrainedModel]:
    """See `Pruner.attached`."""
    cls = _check(model)
    with _lock:
        if other := _attached_to(model):
            raise ValueError(
                f"{type(other).__name__} is attached to this model already: leave its context first"
            )
        lent = _lent_class(pruner, model)
        own = {name: vars(model).pop(name) for name in LENT if name in vars(model)}
        object.__setattr__(model, "__class__", lent)
        _lent.add(model)
    numbering = {part: part.rope_deltas for part in model.modules() if hasattr(part, "rope_deltas")}
    try:
        yield model
    finally:
        for part, deltas in numbering.items():
            part.rope_deltas = deltas
        with _lock:
            _lent.discard(model)
            object.__setattr__(model, "__class__", cls)
            vars(model).update(own)


def _check(model: Any) -> type:
    """Return the class of a model, or raise a `ValueError` if it isn't one that reads images
    itself.
    """
    # adapters and compiled modules have those, too
    if hasattr(model, "config") and hasattr(model, "base_model"):
        return type(model)
    inner = vars(model).get("_modules", {}) if isinstance(model, nn.Module) else {}
    name = next((name for name, part in inner.items() if isinstance(part, PreTrainedModel)), None)
    remedy = (
        "pass a model of transformers"
        if name is None
        else f"attach to the model in it, its .{name}"
    )
    raise ValueError(f"{type(model).__name__} is not a model that reads images itself: {remedy}")


def _attached_to(model: nn.Module) -> "Pruner | None":
    """Return the pruner that is attached to a model, to a part of it, or to what it is a part of."""
    for other in _lent:
        if any(part is model for part in other.modules()) or any(
            part is other for part in model.modules()
        ):
            return type(other).pruner  # type: ignore[attr-defined]
    return None


def _lent_class(pruner: "Pruner", model: PreTrainedModel) -> type:
    """Make a class like that of a model, whose `forward` and `generate`, if it has them, prune.

    A copy of a model of it, or a pickle, is of the model's own class: it has no pruner, and nothing
    of the original.
    """
    cls: Any = type(model)
    own = {name: vars(model)[name] for name in LENT if name in vars(model)}
    room = _Room(pruner)

    def plain(self: Any, name: str) -> Callable[..., Any]:
        if name in own:
            return own[name]
        method = getattr(cls, name, None)
        return MethodType(method, self) if method else cls.__getattr__(self, name)

    def lend(name: str) -> Callable[..., Any]:
        before = getattr(model, name)

        @wraps(before)
        def method(self: Any, /, *args: Any, **kwargs: Any) -> Any:
            return getattr(room, name)(self, plain(self, name), args, kwargs)

        named = signature(before)
        parameters = [Parameter("self", Parameter.POSITIONAL_ONLY), *named.parameters.values()]
        method.pruner = pruner  # type: ignore[attr-defined]
        method.__signature__ = named.replace(parameters=parameters)  # type: ignore[attr-defined]
        return method

    def reduce(self: Any, protocol: Any) -> Any:
        state = cls.__reduce_ex__(self, protocol)[2]
        return object.__new__, (cls,), state | own

    body: dict[str, Any] = {name: lend(name) for name in LENT if hasattr(model, name)}
    body |= {name: getattr(cls, name) for name in ("__module__", "__qualname__", "__doc__")}
    return type(cls)(cls.__name__, (cls,), body | {"__reduce_ex__": reduce, "pruner": pruner})


class _Room:
    """What a lent model does instead of its own `forward` and `generate`."""

    def __init__(self, pruner: "Pruner") -> None:
        self.pruner = pruner

    def forward(
        self, model: Any, plain: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if _inside.get():
            return plain(*args, **kwargs)
        inputs = _named(plain, args, kwargs)
        self._check(model, inputs)
        known = recall(inputs.get("past_key_values"))
        if known is None and not has_images(inputs):
            return plain(*args, **kwargs)
        with ExitStack() as stack:
            call = self._read(model, inputs, stack, whole=False)
            output = _own(plain, call.inputs)
        remember(_cache_of(output), call.after)
        return output

    def generate(
        self, model: Any, plain: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        inputs = _named(plain, args, kwargs)
        if _inside.get() or (
            inputs.get("inputs") is not None and inputs.get("input_ids") is not None
        ):
            return plain(*args, **kwargs)
        self._check(model, inputs)
        name = "input_ids" if inputs.get("inputs") is None else "inputs"
        inputs["input_ids"] = inputs.pop(name, None)
        known = recall(inputs.get("past_key_values"))
        if known is None and not has_images(inputs):
            if filled(inputs.get("past_key_values")):
                refuse_unknown(model, inputs)
            else:
                self.pruner.check(inputs)
            return _own(plain, kwargs, *args)
        with torch.no_grad(), ExitStack() as stack:
            caller = Caller(model, inputs)
            call = self._read(model, inputs, stack, whole=True)
            short = caller.told(call.inputs)
            short[name] = short.pop("input_ids")
            output = caller.output(_own(plain, short))
        sequences = output if isinstance(output, torch.Tensor) else output.sequences
        generated = None if caller.beams else sequences[:, inputs["input_ids"].shape[1] :]
        cache = inputs.get("past_key_values")
        remember(_cache_of(output) if cache is None else cache, call.after, generated)
        return output

    def _check(self, model: Any, inputs: Mapping[str, Any]) -> None:
        if getattr(model, "_is_replica", False):
            raise ValueError(
                "DataParallel runs copies of the model without their parameters, in which nothing can be pruned: run "
                "one process for each GPU, e.g. with torchrun and DistributedDataParallel"
            )
        if inputs.get("mm_encoder_outputs") is not None and not hasattr(type(model), "generate"):
            raise ValueError(
                f"the images that this {type(model).__name__} gets are encoded already, so that none can be pruned: "
                "attach the pruner to the model whose generate or forward you call"
            )

    def _read(self, model: Any, inputs: dict[str, Any], stack: ExitStack, whole: bool) -> Call:
        """Prepare what the model is to read, within contexts that stay open while it does."""
        if inputs.get("input_ids") is None:
            raise ValueError("images beside inputs_embeds cannot be pruned: pass input_ids")
        reader = _reader(model)
        cache = inputs.get("past_key_values")
        if not filled(cache):
            return begin(self.pruner, reader, inputs, stack, whole)
        return resume(self.pruner, reader, inputs, stack, whole)


def _reader(model: Any) -> Any:
    """Return the model that reads the images: for a retriever around another model, that one."""
    if model.config.model_type in FAMILIES or hasattr(model, "get_base_model"):
        return model
    return model.base_model


def _own(plain: Callable[..., Any], kwargs: dict[str, Any], *args: Any) -> Any:
    """Run what is a model's own: what it calls of itself is not pruned again."""
    token = _inside.set(True)
    try:
        return plain(*args, **kwargs)
    finally:
        _inside.reset(token)


def _named(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> dict[str, Any]:
    """Return the arguments of a call by name."""
    return dict(zip(signature(function).parameters, args, strict=False)) | kwargs


def _cache_of(output: Any) -> Cache | None:
    """Return the cache that a model's output carries."""
    values = (
        output.values()
        if isinstance(output, Mapping)
        else output
        if isinstance(output, tuple)
        else ()
    )
    return next((value for value in values if isinstance(value, Cache)), None)
