"""Counts of select and rebuild: operators, and how often the host reads a tensor of the device."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import PreTrainedModel

from adafv.core.pruner import Pruner
from adafv.core.visual_tokens import Encoding
from adafv.models.prompting import build_batch
from adafv.speed.shapes import QUESTION, SHAPES, build, image

__all__ = ["counted"]

IDLE = ("empty", "detach")
"""Operators that compute nothing."""
READS = {
    # what a tensor holds, as Python's own
    "__bool__",
    "__float__",
    "__index__",
    "__int__",
    "item",
    "numpy",
    "tolist",
    # the same, elsewhere
    "cpu",
    "equal",
    # the shape of the result depends on what a tensor holds
    "bincount",
    "masked_select",
    "nonzero",
    "unique",
}
"""Functions for which the host waits for a GPU."""


@torch.no_grad()  # inference mode would not take composite operators apart
def counted(
    pruners: Mapping[str, Pruner], width: int, device: torch.device, dtype: torch.dtype
) -> list[dict[str, Any]]:
    """Return a row for select and for rebuild of each method.

    They are for one image in LLaVA-NeXT: 2,880 visual tokens. `operators` are those that PyTorch
    hands to a kernel: composite ones taken apart, without views and allocations, with those of the
    host's own small tensors. `reads` are the positions in the code where the host asks what is in a
    tensor of the device: on a GPU it waits for it there. On CUDA torch.profiler adds kernels
    launched, waits for a stream and copies to the host.

    Args:
        pruners: by name.
        width: of the visual tokens.
        device, dtype: of the model.
    """
    # counts depend neither on the tower's depth nor on the language model's
    large = SHAPES["llava-next-7b"]
    text = {**large.text, "hidden_size": width, "intermediate_size": width, "vocab_size": 64}
    shape = replace(large, tower=SHAPES["tiny"].tower, text=text)
    model = build(shape.config(1), device, dtype)
    inputs = build_batch(shape.processor(), [image(shape.side, 0)], [QUESTION], device, dtype)
    rows = []
    for name, pruner in pruners.items():
        encoding = pruner.encode(model, inputs)
        seen = _stages(pruner, model, _watched(inputs), _on_watch(encoding))
        for stage, call in _stages(pruner, model, inputs, encoding).items():
            row = {"method": name, "stage": stage, "visual_tokens": encoding.tokens.counts[0]}
            row["operators"] = _operators(call)
            row["reads"] = _reads(seen[stage])
            # the profiler sees what a GPU really did
            if device.type == "cuda":
                row |= _launched(call)
            rows.append(row)
    return rows


def _stages(
    pruner: Pruner, model: PreTrainedModel, inputs: dict[str, Any], encoding: Encoding
) -> dict[str, Callable[[], Any]]:
    """Return the calls that are counted, by stage."""
    budget = list(map(pruner.budget, encoding.tokens.counts))
    select = partial(pruner.select, encoding.tokens, budget)
    rebuild = partial(pruner.rebuild, model, inputs, encoding, select())
    return {"select": select, "rebuild": rebuild}


class _Operators(TorchDispatchMode):
    """A count of the operators that reach a kernel."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        idle = any(word in func.name() for word in IDLE)
        if not func.is_view and not idle:
            self.count += 1
        return func(*args, **(kwargs or {}))


def _operators(call: Callable[[], Any]) -> int:
    with _Operators() as operators:
        call()
    return operators.count


class _Watched(Tensor):
    """A tensor of the device, as is all that is computed from it.

    It notes what the host asks of it: on a CPU too, where nobody waits, and not of tensors that are
    the host's own. It says that it is none of a CPU, for methods look ahead there.
    """

    reads: ClassVar[Counter[str]] = Counter()

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func == Tensor.is_cpu.__get__:
            return False
        # what a mask selects has a shape that depends on it
        by_mask = func.__name__ == "__getitem__" and _is_mask(args[1])
        if func.__name__ in READS or by_mask:
            cls.reads[func.__name__] += 1
        return super().__torch_function__(func, types, args, kwargs or {})


def _is_mask(index: Any) -> bool:
    parts = index if isinstance(index, tuple) else (index,)
    return any(isinstance(part, Tensor) and part.dtype == torch.bool for part in parts)


def _reads(call: Callable[[], Any]) -> int:
    # the count is the class's: tensors come and go
    _Watched.reads.clear()
    call()
    return _Watched.reads.total()


def _watched(value: Any) -> Any:
    """Return a tensor, or those in a dict or list, under watch; anything else as it is."""
    if isinstance(value, Mapping):
        return dict(zip(value, map(_watched, value.values()), strict=True))
    if isinstance(value, list):
        return list(map(_watched, value))
    if isinstance(value, Tensor):
        return value.as_subclass(_Watched)
    return value


def _on_watch(encoding: Encoding) -> Encoding:
    """Return an encoding with all of it under watch that lies on the device."""
    tokens = encoding.tokens
    watched = replace(
        tokens,
        features=_watched(tokens.features),
        mask=_watched(tokens.mask),
        signals=_watched(tokens.signals),
        text=_watched(tokens.text),
        text_mask=_watched(tokens.text_mask),
    )
    return replace(
        encoding,
        tokens=watched,
        features=_watched(encoding.features),
        patch_indices=_watched(encoding.patch_indices),
        structural_indices=_watched(encoding.structural_indices),
    )


def _launched(call: Callable[[], Any]) -> dict[str, int]:
    """Return what a call did on a GPU: kernels, waits for a stream, copies to the host."""
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
        call()

    found = {"kernels": 0, "stream_waits": 0, "copies_to_host": 0}
    for event in profiler.events() or []:
        if event.name == "cudaStreamSynchronize":
            found["stream_waits"] += 1
        if event.device_type != DeviceType.CUDA:
            continue
        if event.name.startswith("Memcpy DtoH"):
            found["copies_to_host"] += 1
        # copies are no kernels, although they run on the device
        elif not event.name.startswith(("Memcpy", "Memset")):
            found["kernels"] += 1
    return found
