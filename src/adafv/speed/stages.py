"""One batch of prompts from inputs on the device to an answer, timed stage by stage; dense or
pruned.
"""

import inspect
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile
from transformers import PreTrainedModel, StaticCache

from adafv.core.capture import LABEL
from adafv.core.pruner import Pruner
from adafv.families.base import base_of
from adafv.speed.roofline import wait
from adafv.utils.checks import checked

__all__ = ["STAGES", "Timed", "answer", "capture_ms", "peak_bytes", "read_text"]

STAGES = ("vision", "select", "rebuild", "prefill")
"""Their times add up to TTFT. Vision is all of `Pruner.encode`: tower, what is read off it, layout,
words.
"""


@dataclass(frozen=True)
class Timed:
    """What an answer took.

    Attributes:
        stages: milliseconds of each of `STAGES`.
        ttft_ms: from inputs on the device to the first token's id.
        decode_ms: a later token of each answer, mean.
        kept: visual tokens of a prompt that the language model read, mean over layers and prompts.
        lengths: for each of its layers the tokens of a prompt that are in its cache after the
            prefill. What a compiled prefill pads is not among them: the ideal is that of the
            prompt, and padding shows as a smaller share of it.
        kv_bytes: of the whole batch's cache by then; of a static cache with room for the answer.
    """

    stages: dict[str, float]
    ttft_ms: float
    decode_ms: float
    kept: float | None
    lengths: list[int]
    kv_bytes: int


class Clock:
    """Marks on the device's own timeline: CUDA events, elsewhere the host's clock once the device
    is done.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        wait(device)
        self.start = time.perf_counter()
        self._names: list[str] = []
        self._marks = [self._now()]

    def mark(self, name: str) -> None:
        self._names.append(name)
        self._marks.append(self._now())

    def stop(self) -> float:
        """Milliseconds on the host since it was made, once the device is done."""
        wait(self.device)
        return 1000 * (time.perf_counter() - self.start)

    def stages(self) -> dict[str, float]:
        """Milliseconds before each mark, since the one before; after `stop`."""
        pairs = zip(self._names, self._marks, self._marks[1:], strict=False)
        if self.device.type == "cuda":
            return {name: before.elapsed_time(after) for name, before, after in pairs}
        return {name: 1000 * (after - before) for name, before, after in pairs}

    def _now(self) -> Any:
        if self.device.type == "cuda":
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            return event
        wait(self.device)
        return time.perf_counter()


@checked
@torch.inference_mode()
def answer(
    model: PreTrainedModel,
    inputs: Mapping[str, Any],
    pruner: Pruner | None,
    tokens: int,
    room: Callable[[int], StaticCache] | None = None,
) -> Timed:
    """Answer a batch of prompts greedily with `tokens` tokens each.

    Args:
        inputs: of the processor, on the device, without padding.
        pruner: None: the stock model, by what its own forward does with pixels.
        room: an empty cache of a length, for a model that is `compiled`; it is given back empty.
            None: the model's own.

    Raises:
        ValueError: what the method refuses.
    """
    kept = None
    with ExitStack() as stack:
        clock = Clock(model.device)
        if pruner is None:
            short = _encoded(model, inputs)
            clock.mark("vision")
        else:
            encoding = pruner.encode(model, inputs)
            clock.mark("vision")
            selection = pruner.choose(encoding)
            clock.mark("select")
            short = pruner.rebuild(model, inputs, encoding, selection)
            stack.enter_context(pruner.between_layers(model, encoding))
            clock.mark("rebuild")
            kept = sum(selection.tokens_read) / len(selection.tokens_read)
        past = room(short["input_ids"].shape[1] + tokens) if room else None
        output = model(**short, past_key_values=past, use_cache=True, logits_to_keep=1)
        token = output.logits[:, -1].argmax(-1, keepdim=True)
        clock.mark("prefill")
        ttft = clock.stop()
        cache = output.past_key_values
        lengths = [int(layer.get_seq_length()) for layer in cache.layers]
        size = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
        later = Clock(model.device)
        for _ in range(tokens - 1):
            token = (
                model(input_ids=token, past_key_values=cache, use_cache=True)
                .logits[:, -1]
                .argmax(-1, keepdim=True)
            )
        decode = later.stop() / max(1, tokens - 1)
        if room:
            cache.reset()
    return Timed({name: 0.0 for name in STAGES} | clock.stages(), ttft, decode, kept, lengths, size)


def _encoded(model: PreTrainedModel, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The inputs with encoded images for pixels, as the model's own forward makes them."""
    encoder = base_of(model).get_image_features
    taken = {name: inputs[name] for name in inspect.signature(encoder).parameters if name in inputs}
    rest = {name: value for name, value in inputs.items() if name != "pixel_values"}
    return rest | {"mm_encoder_outputs": {"image": encoder(**taken, return_dict=True)}}


@checked
@torch.inference_mode()
def read_text(model: PreTrainedModel, batch: int, length: int) -> float:
    """Milliseconds to the first token of prompts of text alone: how long a prompt of some length
    takes.
    """
    ids = torch.full(
        (batch, length), int(model.config.get_text_config().bos_token_id), device=model.device
    )
    clock = Clock(model.device)
    model(input_ids=ids, use_cache=True, logits_to_keep=1).logits.argmax(-1)
    return clock.stop()


@checked
@torch.inference_mode()
def capture_ms(model: PreTrainedModel, inputs: Mapping[str, Any], pruner: Pruner) -> float:
    """Milliseconds of a method's encoding that go into what it reads off the vision tower."""
    cuda = model.device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    with profile(activities=activities) as profiler:
        pruner.encode(model, inputs)
    read = [event for event in profiler.key_averages() if event.key == LABEL]
    return sum(event.device_time_total if cuda else event.cpu_time_total for event in read) / 1000


@checked
def peak_bytes(call: Callable[[], Any], device: torch.device) -> int:
    """The most memory that a call held at once, beyond what was held before."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        return torch.cuda.max_memory_allocated(device) - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        call()
    assert profiler.profiler is not None
    assert profiler.profiler.kineto_results is not None
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    level = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        level += event.nbytes()
        peak = max(peak, level)
    return peak
