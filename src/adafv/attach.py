"""Lend a model a pruner: `generate` and `forward` of one instance, given back in `finally`."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

if TYPE_CHECKING:
    from adafv.pruner import Pruner

__all__ = ["attached"]


@contextmanager
def attached(pruner: "Pruner", model: PreTrainedModel) -> Iterator[PreTrainedModel]:
    """See `Pruner.attached`."""
    own = {name: vars(model).get(name) for name in ("generate", "forward")}
    if hasattr(own["generate"], "pruner"):
        raise ValueError(
            f"{type(own['generate'].pruner).__name__} is attached to this model already: leave its context first"
        )
    generate, forward = model.generate, model.forward

    def pruned_forward(input_ids: Tensor | None = None, pixel_values: Tensor | None = None, **kwargs: Any):
        if pixel_values is None or input_ids is None:
            return forward(input_ids=input_ids, pixel_values=pixel_values, **kwargs)
        return forward(**pruner(model, {"input_ids": input_ids, "pixel_values": pixel_values, **kwargs}))

    def pruned_generate(inputs: Tensor | None = None, *args: Any, **kwargs: Any):
        ids = kwargs.pop("input_ids", inputs)
        if ids is None or kwargs.get("pixel_values") is None:
            return generate(ids, *args, **kwargs)
        with torch.no_grad():
            short = pruner(model, {"input_ids": ids, **kwargs})
        removed = ids.shape[1] - short["input_ids"].shape[1]
        for limit in ("max_length", "min_length"):
            if short.get(limit) is not None:
                short[limit] = max(short[limit] - removed, 0)
        return _with_full_prompt(generate(*args, **short), ids, short["input_ids"].shape[1])

    pruned_generate.pruner = pruner  # type: ignore[attr-defined]
    model.generate, model.forward = pruned_generate, pruned_forward  # type: ignore[method-assign]
    try:
        yield model
    finally:
        for name, function in own.items():
            if function is None:
                delattr(model, name)
            else:
                setattr(model, name, function)


def _with_full_prompt(output: Any, prompt: Tensor, short: int) -> Any:
    sequences = output if isinstance(output, Tensor) else output.sequences
    copies = sequences.shape[0] // prompt.shape[0]
    full = torch.cat([prompt.repeat_interleave(copies, dim=0).to(sequences), sequences[:, short:]], dim=1)
    if isinstance(output, Tensor):
        return full
    output.sequences = full
    return output
