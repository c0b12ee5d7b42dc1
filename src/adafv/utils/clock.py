"""A clock that waits for the device."""

import time

import torch

from adafv.utils.checks import checked

__all__ = ["now"]


@checked
def now(device: torch.device) -> float:
    """Seconds on a clock, read once the device has done all it was given."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    return time.perf_counter()
