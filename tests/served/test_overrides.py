"""What our classes replace of vLLM's is called as vLLM calls it, whichever version is there."""

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest

pytest.importorskip("vllm", reason="needs vLLM: make test-vllm")

from adafv.integrations import vllm as plugin
from adafv.integrations.vllm import ARCHITECTURES, models
from adafv.integrations.vllm.processor import Pruned

OURS = plugin.__name__


def function(member: Any) -> Any:
    """What a method, a class method or a property runs."""
    plain = getattr(member, "fget", None) or getattr(member, "__func__", member)
    return inspect.unwrap(plain) if inspect.isroutine(plain) else None


def overridden(kind: type) -> Iterator[tuple[str, Callable, Callable]]:
    """Name, ours and vLLM's of each method that a class, or a mixin in it, replaces."""
    for i, part in enumerate(kind.__mro__):
        if not part.__module__.startswith(OURS):
            continue
        behind = [x for x in kind.__mro__[i + 1 :] if x.__module__.startswith("vllm.")]
        for name, member in vars(part).items():
            theirs = next((vars(x)[name] for x in behind if name in vars(x)), None)
            ours, theirs = function(member), function(theirs)
            # what we make ourselves is called by us
            if ours and theirs and name != "__init__":
                yield name, ours, theirs


def check(kind: type) -> int:
    """Assert that ours take what vLLM's take, and return how many there are."""
    count = 0
    for name, ours, theirs in overridden(kind):
        taken = inspect.signature(ours).parameters
        kinds = {parameter.kind for parameter in taken.values()}
        if inspect.Parameter.VAR_KEYWORD not in kinds:
            named = inspect.signature(theirs).parameters
            assert set(named) <= set(taken), f"{kind.__name__}.{name}"
        count += 1
    return count


@pytest.mark.parametrize("architecture", ARCHITECTURES.values(), ids=lambda x: x.name)
def test_every_pruned_class(architecture):
    """It can be made, and so can a processor of vLLM's with ours in front."""
    kind = getattr(models, architecture.name)
    assert check(kind) >= 3
    module = importlib.import_module(f"vllm.model_executor.models.{architecture.module}")
    made = getattr(module, architecture.model)._processor_factory.processor
    if inspect.isclass(made):
        assert check(type(made.__name__, (Pruned, made), {"__module__": OURS})) >= 1


def test_every_other_class():
    """The reader of images and clips, and what counts tokens."""
    count = 0
    for module in pkgutil.iter_modules(plugin.__path__, f"{OURS}."):
        for kind in vars(importlib.import_module(module.name)).values():
            if inspect.isclass(kind) and kind.__module__ == module.name:
                count += check(kind)
    assert count > 10
