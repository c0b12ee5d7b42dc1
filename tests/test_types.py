"""Wrong and unusual types, given to every public function: a `ValueError` of one sentence, or it works."""

import importlib
import inspect
import pkgutil
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import picture

import adafv

RAW = (AttributeError, LookupError, TypeError, RuntimeError)
ODD: dict[str, Any] = {
    "None": None,
    "a bool": True,
    "an integer": 3,
    "a float": -1.5,
    "text": "text",
    "bytes": b"bytes",
    "a path": Path("nowhere"),
    "a list": [],
    "a list of numbers": [1, 2],
    "a list of lists": [[1], [2]],
    "a dict": {},
    "rows of something else": [{"a": 1}],
    "an object": object(),
    "a function": len,
    "an array": np.zeros((2, 3)),
    "a tensor": torch.zeros(2, 3),
    "a picture": picture(8, 8),
}
OPTIONAL = ("adafv.integrations", "adafv.serving.vllm", "adafv.app.layout", "adafv.__main__")
"""What needs packages that are not installed here, or runs when it is imported."""
RUNS = {
    "adafv.app.server.serve", "adafv.demo.main", "adafv.serving.demo.main", "adafv.serving.demo.serving",
    "adafv.cli.listing.families", "adafv.cli.listing.methods",
}  # fmt: skip
"""Commands and servers, which a sweep would start."""
OF_THE_CORE = ()
"""Modules whose public functions still let errors of Python through; to be emptied."""


def modules() -> list[str]:
    names = [module.name for module in pkgutil.walk_packages(adafv.__path__, "adafv.")]
    return [name for name in names if not name.startswith(OPTIONAL)]


def public(module: str) -> list[tuple[str, Callable[..., Any]]]:
    """What a module's `__all__` names and defines itself: functions, and classes that are not abstract."""
    found = importlib.import_module(module)
    calls = [(name, getattr(found, name)) for name in getattr(found, "__all__", ())]
    own = [(name, call) for name, call in calls if callable(call) and getattr(call, "__module__", "") == module]
    return [(name, call) for name, call in own if not inspect.isabstract(call) and f"{module}.{name}" not in RUNS]


def required(call: Callable[..., Any]) -> list[str]:
    """Names of the arguments that have no default; those before a `*` too, which can all be given by name."""
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    parameters = inspect.signature(call).parameters.values()
    given = [p for p in parameters if p.kind in kinds]
    return [p.name for p in given if p.default is inspect.Parameter.empty] or [p.name for p in given[:1]]


@pytest.mark.parametrize("module", modules())
def test_wrong_types(module, tmp_path, monkeypatch):
    """Every argument the same odd thing: none of Python's own errors comes through."""
    if module in OF_THE_CORE:
        pytest.skip("still lets errors of Python through")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["adafv"])
    found = []
    for name, call in public(module):
        for kind, value in ODD.items():
            arguments = dict.fromkeys(required(call), value)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                try:
                    call(**arguments)
                except RAW as error:
                    found.append(f"{module}.{name}({kind}): {type(error).__name__}: {error}")
                except Exception:
                    pass
    assert not found, "\n".join(found)
