"""Full precision, which autocast never touches, and numbers that sum alike on every device."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

from adafv.utils.checks import checked

__all__ = ["exact", "full_precision", "rounded"]

P = ParamSpec("P")
R = TypeVar("R")


@checked
def full_precision(device: torch.device) -> AbstractContextManager[None]:
    """Keep autocast away from a device while the context is open.

    A score in bfloat16 would tie with others.
    """
    if torch.amp.is_autocast_available(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()


@checked
def exact(function: Callable[P, R]) -> Callable[P, R]:
    """Keep autocast away from what a function of tensors, or of visual tokens, computes."""

    @wraps(function)
    def computed(*args: P.args, **kwargs: P.kwargs) -> R:
        # the first argument that lies on a device says which
        device: Any = next(x.device for x in (*args, *kwargs.values()) if hasattr(x, "device"))
        with full_precision(device):
            return function(*args, **kwargs)

    return computed


@checked
def rounded(x: Tensor, bits: int) -> Tensor:
    """Round numbers, in place, to multiples of 2**-bits.

    A power of two changes no digit: sums of such multiples are exact in any order, and what differs
    in the last bits between devices ties.
    """
    unit = 2.0**bits
    return x.mul_(unit).round_().div_(unit)
