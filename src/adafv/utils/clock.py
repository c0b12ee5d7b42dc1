"""A clock that waits for the device."""

import time

import torch

from adafv.utils.checks import checked

__all__ = ["now", "wait"]


@checked
def wait(device: torch.device) -> None:
    """Wait until the device has nothing left to do."""
    # a CPU computes before it returns; accelerators are only handed their work
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


@checked
def now(device: torch.device) -> float:
    """Return seconds on a clock, read once the device has done all it was given."""
    wait(device)
    return time.perf_counter()
