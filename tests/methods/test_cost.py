"""Protects a server's other requests: a method that takes long says so by `stepwise` or `cubic`."""

from typing import Any

import pytest
import torch
from conftest import BEFORE, inputs_for, picture, prompt, tiny_model, tiny_processor
from torch.utils._python_dispatch import TorchDispatchMode

from adafv import METHODS, method

FEW, MORE = 12, 36


class Operators(TorchDispatchMode):
    """Keeps the names of the operators that run in its context."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


@torch.no_grad()
def operators(name: str, count: int) -> list[str]:
    """Return the operators with which a method chooses `count` of an image's 180 tokens."""
    model, processor = tiny_model("llava_next"), tiny_processor("llava_next")
    pruner = method(name, tokens=count)
    inputs = inputs_for(processor, (prompt("what color is the knight ?"), [picture(60, 60)]))
    encoding = pruner.encode(model, inputs)
    assert encoding.tokens.counts[0] > 2 * MORE
    with Operators() as found:
        pruner.choose(encoding)
    return found.names


@pytest.mark.parametrize("name", [name for name in BEFORE if name != "none"])
def test_a_method_says_what_its_time_grows_with(name):
    """An operator more for each token more is a loop over the picks; one that solves or factorises
    takes N³.
    """
    few, more = operators(name, FEW), operators(name, MORE)
    loops = len(more) - len(few) >= MORE - FEW
    factorises = any("linalg" in one and "norm" not in one for one in more)
    cls = METHODS[name]
    assert cls.cubic == factorises
    # one that factorises may go over all N tokens at every budget
    assert cls.stepwise == loops or (cls.stepwise and cls.cubic)
