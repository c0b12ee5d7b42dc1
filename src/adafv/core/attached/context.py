"""Attach a pruner: while a context is open, a model's own `generate` and `forward` prune.

The model is of a class like its own for as long. What a call is to read is worked out in
`calls`, what a caller of `generate` is told in `generation`.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from functools import wraps
from inspect import Parameter, signature
from threading import Lock
from types import MethodType
from typing import TYPE_CHECKING, Any, cast
from weakref import WeakKeyDictionary

import torch
from torch import nn
from transformers import Cache, PreTrainedModel

from adafv.core.attached.cached_prompt import (
    filled,
    length,
    recall,
    recall_text,
    refuse_unknown,
    remember,
    remember_text,
)
from adafv.core.attached.calls import Call, begin, resume
from adafv.core.attached.generation import Caller, merged
from adafv.core.inputs import BESIDE_EMBEDS, has_images, option_of
from adafv.core.pruned_inputs import PrunedOutputs
from adafv.families import FAMILIES
from adafv.utils.adapters import without_adapters

if TYPE_CHECKING:
    from adafv.core.pruner import Pruner

__all__ = ["attached"]

Args = tuple[Any, ...]
Kwargs = dict[str, Any]
Plain = Callable[..., Any]
"""A model's own forward or generate."""
PRUNING = ("forward", "generate")
"""Methods of a model that prune while a pruner is attached."""
MERGE = "_merge_criteria_processor_list"
"""The method of transformers that puts a caller's processors beside the model's defaults."""
REPLICA = (
    "DataParallel runs copies of the model without their parameters, in which nothing can be "
    "pruned: run one process for each GPU, e.g. with torchrun and DistributedDataParallel"
)
LATE = (
    "this generate was taken from a model while a pruner was attached, and runs after its context "
    "was left, so that nothing is pruned: keep the context open until it has run"
)
KEPT_OF_CLASS = ("__module__", "__qualname__", "__doc__")

_lock = Lock()  # two threads may not attach at once
_attached: "WeakKeyDictionary[nn.Module, _PruningCalls]" = WeakKeyDictionary()
# by what a model is: compiled code is for a class, and would be compiled again for a new one
_classes: dict[tuple[type, tuple[str, ...]], type] = {}
# the models that run what is their own: what they call of themselves is not pruned again
_run_plain_by: ContextVar[frozenset[int]] = ContextVar("adafv_run_plain_by", default=frozenset())


@contextmanager
def attached(pruner: "Pruner", model: PreTrainedModel) -> Iterator[PreTrainedModel]:
    """Let a model prune, while open: see `Pruner.attached`."""
    cls = _check(model)
    with _lock:
        other = _pruner_of(model)
        if other is not None:
            raise ValueError(
                f"{type(other).__name__} is attached to this model already: leave its context first"
            )
        # a forward of the instance's own would hide that of the class
        own = {name: vars(model)[name] for name in PRUNING if name in vars(model)}
        pruning = _pruning_class(model, own)
        for name in own:
            del vars(model)[name]
        object.__setattr__(model, "__class__", pruning)
        _attached[model] = _PruningCalls(pruner)

    # models with M-RoPE note on themselves where decoding resumes
    numbering = {part: part.rope_deltas for part in model.modules() if hasattr(part, "rope_deltas")}
    try:
        yield model
    finally:
        for part, deltas in numbering.items():
            part.rope_deltas = deltas
        with _lock:
            del _attached[model]
            object.__setattr__(model, "__class__", cls)
            vars(model).update(own)


def _check(model: Any) -> type:
    """Return the class of a model.

    Raises:
        ValueError: it is not a model that reads images itself.
    """
    # adapters and compiled modules have those, too
    if hasattr(model, "config") and hasattr(model, "base_model"):
        return type(model)

    # something around a model: name the attribute that is one
    remedy = "pass a model of transformers"
    modules = vars(model).get("_modules", {}) if isinstance(model, nn.Module) else {}
    for name, part in modules.items():
        if isinstance(part, PreTrainedModel):
            remedy = f"attach to the model in it, its .{name}"
            break
    raise ValueError(f"{type(model).__name__} is not a model that reads images itself: {remedy}")


def _pruner_of(model: nn.Module) -> "Pruner | None":
    """Return the pruner that is attached to a model, to a part of it, or to a model around it."""
    for other, calls in _attached.items():
        contains = any(part is model for part in other.modules())
        if contains or any(part is other for part in model.modules()):
            return calls.pruner
    return None


def _pruning_class(model: PreTrainedModel, own: dict[str, Any]) -> type:
    """Return a class like that of a model, whose `forward` and `generate`, if it has them, prune.

    Args:
        own: methods of the model that are not those of its class.
    """
    names = tuple(name for name in PRUNING if hasattr(model, name))
    if own:
        return _made(model, names, own)
    key = (type(model), names)
    if key not in _classes:
        _classes[key] = _made(model, names, own)
    return _classes[key]


def _made(model: PreTrainedModel, names: tuple[str, ...], own: dict[str, Any]) -> type:
    """Make a class whose methods of some names prune while a pruner is attached.

    A copy of a model of it, or a pickle, is of the model's own class: it has no pruner, and nothing
    of the original.
    """
    cls: Any = type(model)

    def reduce(self: Any, protocol: Any) -> Any:
        """Pickle as the model's own class."""
        state = cls.__reduce_ex__(self, protocol)[2]
        return object.__new__, (cls,), state | own

    body: dict[str, Any] = {"__reduce_ex__": reduce}
    for name in names:
        body[name] = _pruning(model, name, own)
    if hasattr(cls, MERGE):
        body[MERGE] = _merging(cls)
    for name in KEPT_OF_CLASS:
        body[name] = getattr(cls, name)
    made: type = type(cls)(cls.__name__, (cls,), body)
    return made


def _pruning(model: PreTrainedModel, name: str, own: dict[str, Any]) -> Callable[..., Any]:
    """Return a method that prunes, with the signature of the model's own."""
    cls: Any = type(model)
    before = getattr(model, name)
    # not the bound method, which would hold the first model of the class for good
    function = own.get(name) or getattr(cls, name, getattr(before, "__func__", before))

    @wraps(function)
    def method(self: Any, /, *args: Any, **kwargs: Any) -> Any:
        calls = _attached.get(self)
        if getattr(self, "_is_replica", False):
            raise ValueError(REPLICA)
        plain = _plain(self, name, cls, own)
        # wrapped or fetched meanwhile, it outlives the context
        if calls is None:
            _warn_if_late(name, kwargs)
            return plain(*args, **kwargs)
        return getattr(calls, name)(self, plain, args, kwargs)

    named = signature(before)
    parameters = [Parameter("self", Parameter.POSITIONAL_ONLY), *named.parameters.values()]
    method.__signature__ = named.replace(parameters=parameters)  # type: ignore[attr-defined]
    return method


def _plain(model: Any, name: str, cls: Any, own: dict[str, Any]) -> Plain:
    """Return a method of a model of a class, or of its own, as it is without the pruner."""
    found: Plain
    if name in own:
        found = own[name]
        return found
    method = getattr(cls, name, None)
    if method:
        return MethodType(method, model)
    # adapters look up what they don't have in the model that they wrap
    found = cls.__getattr__(model, name)
    return found


def _warn_if_late(name: str, kwargs: Kwargs) -> None:
    """Warn of a `generate` that would have pruned images before the context was left."""
    # a forward is wrapped by libraries, which keep it
    if name == "generate" and has_images(kwargs):
        warnings.warn(LATE, stacklevel=3)


def _merging(cls: type) -> Callable[..., Any]:
    """Return a method that puts the caller's processors in place of defaults of the same kind."""

    def merge(self: Any, defaults: Any, customs: Any) -> Any:
        return merged(MethodType(getattr(cls, MERGE), self), defaults, customs)

    return merge


class _PruningCalls:
    """What a model with a pruner does instead of its own `forward` and `generate`."""

    def __init__(self, pruner: "Pruner") -> None:
        self.pruner = pruner

    def forward(self, model: PreTrainedModel, plain: Plain, args: Args, kwargs: Kwargs) -> Any:
        """Run the model's own forward on a shorter prompt, or on what follows one in a cache."""
        inputs = _named(model, "forward", plain, args, kwargs)
        if _is_own_call(model, inputs):
            return plain(*args, **kwargs)
        self._check(model, inputs)

        # text alone
        cache = inputs.get("past_key_values")
        known = recall(cache)
        if known is None and not has_images(inputs):
            before = recall_text(cache)  # (B, n)
            starts_at = length(cache) if isinstance(cache, Cache) else 0
            if not starts_at:
                self.pruner.check(inputs)
            output = plain(*args, **kwargs)
            ids = inputs.get("input_ids")  # (B, q)
            if ids is not None:
                remember_text(_cache_of(output), ids, before, starts_at)
            return output

        with ExitStack() as stack:
            call = self._prepare(model, inputs, stack, generates=False)
            output = _run_plain(model, plain, call.inputs)
        remember(_cache_of(output), call.after)
        return output

    def generate(self, model: PreTrainedModel, plain: Plain, args: Args, kwargs: Kwargs) -> Any:
        """Generate from a shorter prompt, in the numbers of the caller's."""
        inputs = _named(model, "generate", plain, args, kwargs)
        twice = inputs.get("inputs") is not None and inputs.get("input_ids") is not None
        if _is_own_call(model, inputs) or twice:
            return plain(*args, **kwargs)
        self._check(model, inputs)

        # generate takes the ids under either name
        name = "input_ids" if inputs.get("inputs") is None else "inputs"
        inputs["input_ids"] = inputs.pop(name, None)

        # text alone
        cache = inputs.get("past_key_values")
        known = recall(cache)
        if known is None and not has_images(inputs):
            if filled(cache):
                refuse_unknown(model, inputs)
            else:
                self.pruner.check(inputs)
            output = _run_plain(model, plain, kwargs, *args)
            _remember_generated(model, inputs, output)
            return output

        with torch.no_grad(), ExitStack() as stack:
            caller = Caller(model, inputs)
            call = self._prepare(model, inputs, stack, generates=True)
            short = caller.translated(call.inputs)
            short[name] = short.pop("input_ids")
            output = caller.output(_run_plain(model, plain, short))

        # note what the cache holds now, for the next turn
        sequences = output if isinstance(output, torch.Tensor) else output.sequences  # (R, L + new)
        generated = None if caller.beams else sequences[:, inputs["input_ids"].shape[1] :]
        remember(_cache_of(output) if cache is None else cache, call.after, generated)
        return output

    def _check(self, model: PreTrainedModel, inputs: Mapping[str, Any]) -> None:
        """Raise a `ValueError` of a model in which nothing can be pruned."""
        # what `Pruner.__call__` returned may be passed on
        encoded = inputs.get("mm_encoder_outputs")
        pruned = isinstance(encoded, PrunedOutputs) and hasattr(type(model), "generate")
        if encoded is not None and not pruned:
            raise ValueError(
                f"the images that this {type(model).__name__} gets are encoded already, so that "
                "nothing can be pruned: attach the pruner to the model whose generate or forward "
                "you call"
            )

    def _prepare(
        self, model: PreTrainedModel, inputs: dict[str, Any], stack: ExitStack, generates: bool
    ) -> Call:
        """Prepare what the model is to read, within contexts that stay open while it does."""
        if inputs.get("input_ids") is None or inputs.get("inputs_embeds") is not None:
            raise ValueError(BESIDE_EMBEDS)
        reader = _reader(model)
        if filled(inputs.get("past_key_values")):
            return resume(self.pruner, reader, inputs, stack, generates)
        return begin(self.pruner, reader, inputs, stack, generates)


def _reader(model: PreTrainedModel) -> PreTrainedModel:
    """Return the model that reads the images: for a retriever around another model, that one."""
    if model.config.model_type in FAMILIES or hasattr(model, "get_base_model"):
        return model
    return cast(PreTrainedModel, model.base_model)


def _run_plain(model: PreTrainedModel, plain: Plain, kwargs: Kwargs, *args: Any) -> Any:
    """Run what is a model's own: what it calls of itself is not pruned again."""
    token = _run_plain_by.set(_run_plain_by.get() | {id(model)})
    try:
        return plain(*args, **kwargs)
    finally:
        _run_plain_by.reset(token)


def _remember_generated(model: PreTrainedModel, inputs: Mapping[str, Any], output: Any) -> None:
    """Write on the cache of a `generate` of text alone which text it holds."""
    ids, mask = inputs["input_ids"], inputs.get("attention_mask")
    cache = inputs.get("past_key_values")
    cache = _cache_of(output) if cache is None else cache
    # beams stand in no order that comes out; of a part of a chat the beginning is not known
    beams = (option_of(model, inputs, "num_beams") or 1) > 1
    if ids is None or cache is None or beams or (mask is not None and mask.shape != ids.shape):
        return
    sequences = output if isinstance(output, torch.Tensor) else output.sequences  # (R, L + new)
    remember_text(cache, sequences[:, : length(cache)], before=None)


def _is_own_call(model: PreTrainedModel, inputs: Mapping[str, Any]) -> bool:
    """Return whether it is a model's own code that calls it, whose images are encoded already."""
    return id(model) in _run_plain_by.get() and not has_images(inputs)


def _named(
    model: PreTrainedModel, method: str, plain: Plain, args: Args, kwargs: Kwargs
) -> dict[str, Any]:
    """Return the arguments of a call of a model's own forward or generate, `method`, by name.

    Raises:
        ValueError: arguments by position whose names are not known.
    """
    if not args:
        return dict(kwargs)
    parameters = signature(plain).parameters
    # adapters hand them on to what they wrap
    inner = without_adapters(model)
    handed_on = any(one.kind is Parameter.VAR_POSITIONAL for one in parameters.values())
    if handed_on and inner is not model:
        parameters = signature(getattr(inner, method)).parameters
    names = [name for name, one in parameters.items() if one.kind is not Parameter.VAR_POSITIONAL]
    if len(names) < len(args):
        raise ValueError(
            f"{len(args)} arguments by position, of which {type(model).__name__} does not say what "
            "they are: pass them by name"
        )
    return dict(zip(names, args, strict=False)) | kwargs


def _cache_of(output: Any) -> Cache | None:
    """Return the cache that a model's output carries."""
    values: tuple[Any, ...] = ()
    if isinstance(output, Mapping):
        values = tuple(output.values())
    elif isinstance(output, tuple):
        values = output
    for value in values:
        if isinstance(value, Cache):
            return value
    return None
