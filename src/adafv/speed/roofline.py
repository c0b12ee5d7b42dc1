"""The roofline of a machine: its fastest matrix product, its fastest copy."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from adafv.utils.checks import checked
from adafv.utils.clock import wait

__all__ = ["Roofline", "measure"]

LONG = 0.02  # seconds; a larger product would be no faster
TRIES = 5
SIDES = (256, 512, 1024, 2048, 4096, 8192)
COPY = 2**30  # bytes, more than any cache of a GPU holds
COPY_ON_CPU = 2**26


@dataclass(frozen=True)
class Roofline:
    """FLOP/s of a matrix product and bytes/s of a copy (read and written), as measured."""

    flops: float
    bytes: float

    def compute_ms(self, flops: float) -> float:
        """Return the milliseconds that arithmetic takes at least."""
        return 1000 * flops / self.flops

    def memory_ms(self, traffic: float) -> float:
        """Return the milliseconds that so many bytes to and from memory take at least."""
        return 1000 * traffic / self.bytes

    def at_least_ms(self, flops: float, traffic: float) -> float:
        """Return the milliseconds of the slower of the two, which overlap at best."""
        return max(self.compute_ms(flops), self.memory_ms(traffic))


@checked
def measure(device: torch.device, dtype: torch.dtype) -> Roofline:
    """Time matrix products of 256² to 8192², and copies that no cache holds; keep the best."""
    # compute: larger products come closer to the peak, until one is long enough
    fastest = 0.0
    for side in SIDES:
        a = torch.randn(side, side, device=device, dtype=torch.float32).to(dtype)
        b = torch.randn(side, side, device=device, dtype=torch.float32).to(dtype)
        out = torch.empty_like(a)
        seconds = _best(partial(torch.mm, a, b, out=out), device)
        fastest = max(fastest, 2 * side**3 / seconds)
        if seconds > LONG:
            break

    # memory: every byte is read once and written once
    size = COPY_ON_CPU if device.type == "cpu" else COPY
    source = torch.empty(size, dtype=torch.uint8, device=device).fill_(1)
    target = torch.empty_like(source)
    seconds = _best(partial(target.copy_, source), device)
    return Roofline(fastest, 2 * source.numel() / seconds)


def _best(call: Callable[[], Any], device: torch.device) -> float:
    """Return the seconds of the fastest of several calls, after one that warms up."""
    call()
    # the best of several: other programs only ever slow it down
    times = []
    for _ in range(TRIES):
        wait(device)
        start = time.perf_counter()
        call()
        wait(device)
        times.append(time.perf_counter() - start)
    return min(times)
