"""How much is asked of PyTorch in select and rebuild, and how often the host asks what a tensor of
the device holds.
"""

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
READS = {
    "__bool__", "__float__", "__index__", "__int__", "bincount", "cpu", "equal", "item", "masked_select", "nonzero",
    "numpy", "tolist", "unique",
}  # fmt: skip


@torch.no_grad()  # inference mode would not take composite operators apart
def counted(
    pruners: Mapping[str, Pruner], width: int, device: torch.device, dtype: torch.dtype
) -> list[dict[str, Any]]:
    """A row for select and for rebuild of each method, for one image in LLaVA-NeXT: 2,880 visual
    tokens.

    `operators` are those that PyTorch hands to a kernel: composite ones taken apart, without views
    and allocations, with those of the host's own small tensors. `reads` are the places where the
    host asks what is in a tensor of the device: on a GPU it waits for it there. On CUDA
    torch.profiler adds kernels launched, waits for a stream and copies to the host.

    Args:
        width: of the visual tokens.
    """
    whole = SHAPES["llava-next-7b"]
    text = {**whole.text, "hidden_size": width, "intermediate_size": width, "vocab_size": 64}
    # what is counted depends on neither's depth
    shape = replace(whole, tower=SHAPES["tiny"].tower, text=text)
    model = build(shape.config(1), device, dtype)
    inputs = build_batch(shape.processor(), [image(shape.side, 0)], [QUESTION], device, dtype)
    rows = []
    for name, pruner in pruners.items():
        encoding = pruner.encode(model, inputs)
        seen = _stages(pruner, model, _watched(inputs), _on_watch(encoding))
        for stage, call in _stages(pruner, model, inputs, encoding).items():
            row = {"method": name, "stage": stage, "visual_tokens": encoding.tokens.counts[0]}
            row |= {"operators": _operators(call), "reads": _reads(seen[stage])}
            rows.append(row | (_launched(call) if device.type == "cuda" else {}))
    return rows


def _stages(
    pruner: Pruner, model: PreTrainedModel, inputs: dict[str, Any], encoding: Encoding
) -> dict[str, Callable[[], Any]]:
    select = partial(
        pruner.select, encoding.tokens, [pruner.budget(n) for n in encoding.tokens.counts]
    )
    return {"select": select, "rebuild": partial(pruner.rebuild, model, inputs, encoding, select())}


class _Operators(TorchDispatchMode):
    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += not (func.is_view or any(word in func.name() for word in IDLE))
        return func(*args, **(kwargs or {}))


def _operators(call: Callable[[], Any]) -> int:
    with _Operators() as operators:
        call()
    return operators.count


class _Watched(Tensor):
    """A tensor of the device, as is all that is computed from it. It notes what the host asks of
    it.

    On a CPU too, where nobody waits, and apart from the tensors that are the host's own.
    """

    reads: ClassVar[Counter[str]] = Counter()

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        by_mask = func.__name__ == "__getitem__" and _is_mask(args[1])
        if func.__name__ in READS or by_mask:
            cls.reads[func.__name__] += 1
        return super().__torch_function__(func, types, args, kwargs or {})


def _is_mask(index: Any) -> bool:
    parts = index if isinstance(index, tuple) else (index,)
    return any(isinstance(part, Tensor) and part.dtype == torch.bool for part in parts)


def _reads(call: Callable[[], Any]) -> int:
    _Watched.reads.clear()
    call()
    return _Watched.reads.total()


def _watched(value: Any) -> Any:
    """A tensor, or those in a dict or list, under watch; anything else as it is."""
    if isinstance(value, Mapping):
        return {name: _watched(x) for name, x in value.items()}
    if isinstance(value, list):
        return [_watched(x) for x in value]
    return value.as_subclass(_Watched) if isinstance(value, Tensor) else value


def _on_watch(encoding: Encoding) -> Encoding:
    """All of an encoding that lies on the device."""
    names = ("features", "mask", "signals", "text", "text_mask")
    tokens = replace(
        encoding.tokens, **{name: _watched(getattr(encoding.tokens, name)) for name in names}
    )
    names = ("features", "patch_indices", "structural_indices")
    return replace(
        encoding, tokens=tokens, **{name: _watched(getattr(encoding, name)) for name in names}
    )


def _launched(call: Callable[[], Any]) -> dict[str, int]:
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
        call()
    events = profiler.events() or []
    on_device = [event.name for event in events if event.device_type == DeviceType.CUDA]
    return {
        "kernels": sum(not name.startswith(("Memcpy", "Memset")) for name in on_device),
        "stream_waits": sum(event.name == "cudaStreamSynchronize" for event in events),
        "copies_to_host": sum(name.startswith("Memcpy DtoH") for name in on_device),
    }
