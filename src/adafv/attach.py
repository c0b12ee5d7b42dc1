"""Lend a model a pruner: `generate` and `forward` of one instance, given back in `finally`."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from copy import copy
from functools import wraps
from inspect import signature
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel

from adafv.layout import has_images

__all__ = ["attached"]


class Prune(Protocol):
    """What is lent: a context in which the model may read the shorter inputs that it yields."""

    def applied(self, model: PreTrainedModel, inputs: dict[str, Any]) -> AbstractContextManager[dict[str, Any]]: ...

    def check(self, inputs: dict[str, Any]) -> None: ...


@contextmanager
def attached(pruner: Prune, model: PreTrainedModel) -> Iterator[PreTrainedModel]:
    """See `Pruner.attached`."""
    instance: Any = model
    own = {name: vars(model).get(name) for name in ("generate", "forward")}
    if other := getattr(own["generate"], "pruner", None):
        raise ValueError(f"{type(other).__name__} is attached to this model already: leave its context first")
    generate, forward = instance.generate, instance.forward

    @wraps(forward)  # generate reads the signature to learn what forward accepts
    def pruned_forward(*args: Any, **kwargs: Any):
        inputs = dict(zip(signature(forward).parameters, args, strict=False)) | kwargs
        if not has_images(inputs):
            return forward(**inputs)
        if inputs.get("input_ids") is None:
            raise ValueError("pictures beside inputs_embeds cannot be pruned: pass input_ids")
        with pruner.applied(model, inputs) as short:
            return forward(**short)

    @wraps(generate)
    def pruned_generate(inputs: Tensor | None = None, generation_config: GenerationConfig | None = None, **kwargs: Any):
        ids = kwargs.pop("input_ids", inputs)
        if not has_images(kwargs):
            pruner.check(kwargs)
            return generate(ids, generation_config, **kwargs)
        if ids is None:
            raise ValueError("pictures beside inputs_embeds cannot be pruned: pass input_ids")
        with torch.no_grad(), pruner.applied(model, {"input_ids": ids, **kwargs}) as short:
            removed = ids.shape[1] - short["input_ids"].shape[1]
            generation_config = copy(generation_config or instance.generation_config)
            _lower(vars(generation_config), removed)
            _lower(short, removed)
            return _with_full_prompt(generate(generation_config=generation_config, **short), ids, removed)

    pruned_generate.pruner = pruner  # type: ignore[attr-defined]
    instance.generate, instance.forward = pruned_generate, pruned_forward
    decoder_state = {module: module.rope_deltas for module in model.modules() if hasattr(module, "rope_deltas")}
    try:
        yield model
    finally:
        for module, deltas in decoder_state.items():
            module.rope_deltas = deltas
        for name, function in own.items():
            if function is None:
                delattr(model, name)
            else:
                setattr(model, name, function)


def _lower(options: dict[str, Any], removed: int) -> None:
    """Lengths that count the caller's prompt, in terms of the shorter one."""
    for name in ("max_length", "min_length"):
        if options.get(name):
            options[name] = max(options[name] - removed, 0)


def _with_full_prompt(output: Any, prompt: Tensor, removed: int) -> Any:
    sequences = output if isinstance(output, Tensor) else output.sequences
    copies = sequences.shape[0] // prompt.shape[0]
    new = sequences[:, prompt.shape[1] - removed :]
    full = torch.cat([prompt.repeat_interleave(copies, dim=0).to(sequences), new], dim=1)
    if isinstance(output, Tensor):
        return full
    output.sequences = full
    return output
