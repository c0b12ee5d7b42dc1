"""Rounds of timed calls that take turns."""

import sys
from collections.abc import Callable, Mapping
from typing import Any

import torch
from tqdm import tqdm

from adafv.speed.run import plan
from adafv.utils.clock import now

__all__ = ["timed"]


def timed(
    calls: Mapping[str, Callable[[], Any]], device: torch.device, repeats: int, quiet: bool
) -> dict[str, list[float]]:
    """Return the milliseconds of every round of each call; a first one of each is not counted."""
    for call in calls.values():
        call()
    trials = list(plan([(name, 1.0) for name in calls], 1, repeats))
    times: dict[str, list[float]] = {name: [] for name in calls}
    for trial in tqdm(trials, desc="timed", file=sys.stderr, disable=quiet):
        start = now(device)
        calls[trial.method]()
        times[trial.method].append(1000 * (now(device) - start))
    return times
