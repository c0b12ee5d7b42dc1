"""Keep what vision towers made of images, so that the same pixels are encoded once."""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from hashlib import blake2b
from itertools import chain
from threading import Lock
from typing import Any, Self
from weakref import ReferenceType, ref

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

from adafv.core.signals import Signal
from adafv.utils.checks import checked, positive
from adafv.utils.clock import now

__all__ = ["Encoded", "TowerCache", "open_cache"]

SAMPLE = 8
"""Numbers of each weight that are looked at."""
LAYERS = ("hidden_states", "attentions")
Encoded = tuple[ModelOutput, dict[Signal, Tensor]]
"""An encoder's output, and what was read off its tower."""

_open: ContextVar[tuple["TowerCache", ...]] = ContextVar("adafv_tower_caches", default=())


@dataclass(frozen=True)
class _Entry:
    model: ReferenceType[PreTrainedModel]
    output: ModelOutput
    found: dict[Signal, Tensor]
    signals: frozenset[Signal]
    bytes: int
    seconds: float


@checked
class TowerCache:
    """Encodes no pixels twice, in whatever prunes while it is open.

        with TowerCache(megabytes=512) as cache:
            ask(model, processor, image, "what is this?", AdaFV(keep=0.1))
            ask(model, processor, image, "what color is it?", AdaFV(keep=0.1))
        print(cache.hits, cache.misses)

    The same features come back, to the bit. What counts are the pixels that reach the tower: the
    same images in one call, whatever their files are called. A model whose weights, adapters,
    hooks or attention have changed meanwhile encodes anew, as does one that trains; methods that
    shrink images before the tower always do. What is kept has no gradients: calls with labels, or
    with pixels that ask for some, encode anew, too. The least recently used go first. On a GPU the
    pixels are read back to the host before the tower runs, and the host waits for a tower that has
    to run.

    It is open in the thread that opened it, and may be opened again, and in several threads.

    Args:
        megabytes: of what is kept, 2**20 bytes each.

    Attributes:
        hits: encodings that were taken from the cache.
        misses: encodings that a tower had to make.
        seconds_saved: what the encodings of all hits had taken to make.
        bytes: of what is kept now.

    Raises:
        ValueError: `megabytes` is not above 0.
    """

    def __init__(self, megabytes: float = 256) -> None:
        positive("megabytes", megabytes, 256)
        self.limit = int(megabytes * 2**20)
        self.hits = 0
        self.misses = 0
        self.seconds_saved = 0.0
        self.bytes = 0
        self._entries: OrderedDict[bytes, _Entry] = OrderedDict()
        self._lock = Lock()

    def __enter__(self) -> Self:
        _open.set((*_open.get(), self))
        return self

    def __exit__(self, *error: object) -> None:
        # whichever was opened first may be closed first
        opened = list(_open.get())
        last = max(i for i, cache in enumerate(opened) if cache is self)
        del opened[last]
        _open.set(tuple(opened))

    def __len__(self) -> int:
        """Return how many encodings are kept."""
        return len(self._entries)

    def clear(self) -> None:
        """Forget all encodings; the counts stay."""
        with self._lock:
            self._entries.clear()
            self.bytes = 0

    def encoded(
        self,
        model: PreTrainedModel,
        inputs: Mapping[str, Any],
        signals: Iterable[Signal],
        encode: Callable[[frozenset[Signal]], Encoded],
    ) -> Encoded:
        """Return what an encoder makes of some inputs; it runs if that is not known.

        Args:
            model: whose encoder it is.
            inputs: what the encoder reads.
            signals: what has to be read off the tower.
            encode: runs the encoder, and reads the signals that it is given.
        """
        wanted = frozenset(signals)
        key = _digest(model, inputs)
        with self._lock:
            entry = self._entries.get(key)
            # another model may have the place in memory of one that is gone
            if entry is not None and entry.model() is not model:
                entry = None
            if entry is not None and wanted <= entry.signals:
                self.hits += 1
                self.seconds_saved += entry.seconds
                self._entries.move_to_end(key)
                return entry.output, {s: x for s, x in entry.found.items() if s in wanted}
            self.misses += 1

        # signals that were asked for before are read again, so that either question finds its own
        known = entry.signals if entry is not None else frozenset()
        device = _device(model)
        start = now(device)
        output, found = encode(wanted | known)
        seconds = now(device) - start
        output = _without_layers(output)
        size = _size(output, found)
        self._keep(key, _Entry(ref(model), output, found, wanted | known, size, seconds))
        return output, {s: x for s, x in found.items() if s in wanted}

    def _keep(self, key: bytes, entry: _Entry) -> None:
        """Keep an entry, and drop what was used longest ago beyond the limit."""
        with self._lock:
            before = self._entries.pop(key, None)
            if before is not None:
                self.bytes -= before.bytes
            if entry.bytes > self.limit:
                return
            self._entries[key] = entry
            self.bytes += entry.bytes
            while self.bytes > self.limit:
                _, oldest = self._entries.popitem(last=False)
                self.bytes -= oldest.bytes


@checked
def open_cache() -> TowerCache | None:
    """Return the cache that was opened last in this thread; None: none is open."""
    opened = _open.get()
    return opened[-1] if opened else None


def _digest(model: PreTrainedModel, inputs: Mapping[str, Any]) -> bytes:
    """Return a digest of what an encoder reads, and of all that decides what it makes of it."""
    digest = blake2b(digest_size=32)
    for name in sorted(inputs):
        digest.update(repr(name).encode())
        _add(digest, inputs[name])
    digest.update(repr(_state(model)).encode())
    return digest.digest()


def _add(digest: blake2b, value: Any) -> None:
    """Add a value to a digest: tensors whole, those in lists and tuples, too."""
    if isinstance(value, Tensor):
        digest.update(repr((value.dtype, tuple(value.shape))).encode())
        numbers = value.detach().cpu().contiguous().flatten().view(torch.uint8)
        digest.update(numbers.numpy().data)
    elif isinstance(value, tuple | list):
        digest.update(repr((type(value).__name__, len(value))).encode())
        for one in value:
            _add(digest, one)
    else:
        digest.update(repr(value).encode())


def _device(model: PreTrainedModel) -> torch.device:
    """Return where a model computes, as far as that is known."""
    # weights may be elsewhere between their turns
    return torch.device("cpu") if model.device.type == "meta" else model.device


def _state(model: PreTrainedModel) -> list[Any]:
    """Return what changes with a model's weights, adapters and attention, and how it computes."""
    device = _device(model).type
    state: list[Any] = [
        id(model),
        model.config.to_json_string(use_diff=False),
        str(model.device),
        torch.is_inference_mode_enabled(),
        torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device),
        torch.get_float32_matmul_precision(),
    ]
    some: list[Tensor] = []
    for weight in chain(model.parameters(), model.buffers()):
        # those made in inference mode count no versions, and are never changed in place
        version = 0 if weight.is_inference() else weight._version
        state.append((weight.data_ptr(), version))
        if weight.device.type != "meta":
            sample = weight.detach().flatten()[:: max(1, weight.numel() // SAMPLE)][:SAMPLE]
            # rotary tables are complex in some models
            if sample.is_complex():
                sample = torch.view_as_real(sample)
            some.append(sample.double().cpu())
    for module in model.modules():
        # of whoever looks into the tower, or changes what it does
        state.append([*_foreign(module._forward_pre_hooks), *_foreign(module._forward_hooks)])
        if isinstance(module, PreTrainedModel):
            state.append(module.config._attn_implementation)
        # a layer of PEFT
        elif hasattr(module, "disable_adapters"):
            scaling = getattr(module, "scaling", None)
            state.append((module.disable_adapters, module.active_adapters, scaling))
    # weights that were written to past their version counters
    state.append([numbers.tolist() for numbers in some])
    return state


def _foreign(hooks: Mapping[int, Any]) -> list[int]:
    """Return the numbers of hooks that neither this library nor transformers has set."""
    found = []
    for number, hook in hooks.items():
        # both look on, and come and go
        if not (getattr(hook, "__module__", None) or "").startswith(("adafv.", "transformers.")):
            found.append(number)
    return found


def _without_layers(output: ModelOutput) -> ModelOutput:
    """Return an output without what every layer of the tower made, which nobody reads later."""
    fields = {name: value for name, value in output.items() if name not in LAYERS}
    return type(output)(**fields)


def _size(output: ModelOutput, found: Mapping[Signal, Tensor]) -> int:
    """Return the bytes that tensors hold, each memory once."""
    held: dict[int, int] = {}
    waiting: list[Any] = [*output.values(), *found.values()]
    while waiting:
        value = waiting.pop()
        if isinstance(value, Tensor):
            storage = value.untyped_storage()
            held[storage.data_ptr()] = storage.nbytes()
        elif isinstance(value, tuple | list):
            waiting += value
    return sum(held.values())
