"""What the machine can do at most: its fastest matrix product, its fastest copy."""

import time
from dataclasses import dataclass
from typing import Any

import torch

from adafv.utils.checks import checked

__all__ = ["Ceilings", "measure", "wait"]

LONG = 0.02  # seconds; a larger product would be no faster
TRIES = 5


@dataclass(frozen=True)
class Ceilings:
    """FLOP/s of a matrix product and bytes/s of a copy (read and written), as measured."""

    flops: float
    bytes: float

    def compute_ms(self, flops: float) -> float:
        return 1000 * flops / self.flops

    def memory_ms(self, traffic: float) -> float:
        return 1000 * traffic / self.bytes


@checked
def wait(device: torch.device) -> None:
    """Until the device has nothing left to do."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


@checked
def measure(device: torch.device, dtype: torch.dtype) -> Ceilings:
    """The best of several matrix products of 256² to 8192², and of copies that no cache holds."""
    fastest = 0.0
    for side in (256, 512, 1024, 2048, 4096, 8192):
        a, b = (
            torch.randn(side, side, device=device, dtype=torch.float32).to(dtype) for _ in range(2)
        )
        out = torch.empty_like(a)
        seconds = _best(lambda a=a, b=b, out=out: torch.mm(a, b, out=out), device)
        fastest = max(fastest, 2 * side**3 / seconds)
        if seconds > LONG:
            break
    source = torch.empty(
        2**26 if device.type == "cpu" else 2**30, dtype=torch.uint8, device=device
    ).fill_(1)
    target = torch.empty_like(source)
    return Ceilings(fastest, 2 * source.numel() / _best(lambda: target.copy_(source), device))


def _best(call: Any, device: torch.device) -> float:
    call()
    times = []
    for _ in range(TRIES):
        wait(device)
        start = time.perf_counter()
        call()
        wait(device)
        times.append(time.perf_counter() - start)
    return min(times)
