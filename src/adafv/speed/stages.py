"""One batch of prompts, dense or pruned, from inputs on the device to an answer, stage by stage."""

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
from adafv.utils.checks import checked
from adafv.utils.clock import wait

__all__ = ["STAGES", "Timed", "answer", "capture_ms", "peak_bytes", "read_text"]

STAGES = ("vision", "select", "rebuild", "prefill")
"""Their times add up to TTFT.

Vision is all of `Pruner.encode`: tower, what is read off it, layout, text tokens.
"""


@dataclass(frozen=True)
class Timed:
    """The time that an answer took.

    Attributes:
        stages: milliseconds of each of `STAGES`.
        ttft_ms: from inputs on the device to the first token's id.
        decode_ms: a later token of each answer, mean; None: the answer is one token.
        kept: visual tokens of a prompt that the language model read, mean over layers and prompts.
        lengths: for each of its layers the tokens of a prompt that are in its cache after the
            prefill. What a compiled prefill pads is not among them: the ideal is that of the
            prompt, and padding shows as a smaller share of it.
        kv_bytes: of the whole batch's cache by then; of a static cache with room for the answer.
    """

    stages: dict[str, float]
    ttft_ms: float
    decode_ms: float | None
    kept: float | None
    lengths: list[int]
    kv_bytes: int


class Clock:
    """Marks on the device's own timeline.

    On CUDA they are events; elsewhere the host's clock, once the device is done.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        # nothing of what came before may fall into the first stage
        wait(device)
        self.start = time.perf_counter()
        self._names: list[str] = []
        self._marks = [self._now()]

    def mark(self, name: str) -> None:
        """End a stage here."""
        self._names.append(name)
        self._marks.append(self._now())

    def stop(self) -> float:
        """Return milliseconds on the host since the start, once the device is done."""
        wait(self.device)
        return 1000 * (time.perf_counter() - self.start)

    def stages(self) -> dict[str, float]:
        """Return the milliseconds from each mark to the next; call it after `stop`."""
        ms = {}
        for name, before, after in zip(self._names, self._marks, self._marks[1:], strict=False):
            if self.device.type == "cuda":
                ms[name] = before.elapsed_time(after)
            else:
                ms[name] = 1000 * (after - before)
        return ms

    def _now(self) -> Any:
        # an event costs no wait, so that the host may run ahead as it does without a clock
        if self.device.type == "cuda":
            event = torch.cuda.Event(enable_timing=True)
            event.record(torch.cuda.current_stream(self.device))
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
    # the stack holds layers open that a method prunes at, until the answer is there
    with ExitStack() as stack:
        # from pixels to shorter inputs
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

        # the prefill, up to the first token
        past = room(short["input_ids"].shape[1] + tokens) if room else None  # (B, K + M) ids
        output = model(**short, past_key_values=past, use_cache=True, logits_to_keep=1)
        token = output.logits[:, -1].argmax(-1, keepdim=True)  # (B, 1)
        clock.mark("prefill")
        ttft = clock.stop()

        # what the cache holds by now
        cache = output.past_key_values
        lengths = []
        size = 0
        for layer in cache.layers:
            lengths.append(int(layer.get_seq_length()))
            size += layer.keys.nbytes + layer.values.nbytes

        # the rest of the answer, greedily
        # kernels of several tokens may overlap: only their mean says something
        later = Clock(model.device)
        for _ in range(tokens - 1):
            output = model(input_ids=token, past_key_values=cache, use_cache=True)
            token = output.logits[:, -1].argmax(-1, keepdim=True)  # (B, 1)
        decode = later.stop() / (tokens - 1) if tokens > 1 else None
        if room:
            cache.reset()

    # the dense model has no stages of selection
    stages = dict.fromkeys(STAGES, 0.0) | clock.stages()
    return Timed(stages, ttft, decode, kept, lengths, size)


def _encoded(model: PreTrainedModel, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the inputs with encoded images for pixels, as the model's own forward makes them."""
    encoder = base_of(model).get_image_features
    # families differ in what they need beside pixels
    taken = {}
    for name in inspect.signature(encoder).parameters:
        if name in inputs:
            taken[name] = inputs[name]

    rest = dict(inputs)
    rest.pop("pixel_values", None)
    return rest | {"mm_encoder_outputs": {"image": encoder(**taken, return_dict=True)}}


@checked
@torch.inference_mode()
def read_text(model: PreTrainedModel, batch: int, length: int) -> float:
    """Return the milliseconds to the first token of prompts of text alone, of some length."""
    bos = int(model.config.get_text_config().bos_token_id)
    # which tokens they are doesn't change how long they take
    ids = torch.full((batch, length), bos, device=model.device)  # (B, L)
    clock = Clock(model.device)
    model(input_ids=ids, use_cache=True, logits_to_keep=1).logits.argmax(-1)
    return clock.stop()


@checked
@torch.inference_mode()
def capture_ms(model: PreTrainedModel, inputs: Mapping[str, Any], pruner: Pruner) -> float:
    """Return the milliseconds of encoding that go into what is read off the vision tower."""
    cuda = model.device.type == "cuda"
    # the label is set on the host, and covers the kernels that it launches
    activities = [ProfilerActivity.CPU]
    if cuda:
        activities.append(ProfilerActivity.CUDA)
    with profile(activities=activities) as profiler:
        pruner.encode(model, inputs)

    # `core.capture` labels what it does inside the tower; times are in microseconds
    total = 0.0
    for event in profiler.key_averages():
        if event.key == LABEL:
            total += event.device_time_total if cuda else event.cpu_time_total
    return total / 1000


@checked
def peak_bytes(call: Callable[[], Any], device: torch.device) -> int:
    """Return the most memory that a call held at once, beyond what was held before."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        return torch.cuda.max_memory_allocated(device) - before

    # a CPU keeps no count: add up what the profiler saw come and go
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        call()
    assert profiler.profiler is not None
    assert profiler.profiler.kineto_results is not None
    events = profiler.profiler.kineto_results.events()
    level = 0
    peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        if event.name() == "[memory]":
            level += event.nbytes()  # negative where memory is given back
            peak = max(peak, level)
    return peak
