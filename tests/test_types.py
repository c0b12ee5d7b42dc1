"""Wrong and unusual types, given to every public function: a `ValueError` of one sentence, or it
works.
"""

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
from conftest import picture, tiny_model, tiny_processor

import adafv
from adafv import AdaFV
from adafv.utils.checks import checked

RAW = (AttributeError, LookupError, TypeError, RuntimeError)
ODD: dict[str, Any] = {
    "None": None,
    "a bool": True,
    "an integer": 3,
    "a float": -1.5,
    "text": "text",
    "bytes": b"\1\2",
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
    "an image": picture(8, 8),
}
OPTIONAL = (
    "adafv.integrations",
    "adafv.integrations.vllm",
    "adafv.app.blocks",
    "adafv.app.layout",
    "adafv.ops.kernels.coverage",
    "adafv.ops.kernels.sacmam",
    "adafv.__main__",
)
"""What needs packages that are not installed here, or runs when it is imported."""
RUNS = {
    "adafv.app.server.serve",
    "adafv.demo.library.main",
    "adafv.demo.server.main",
    "adafv.demo.server.serving",
    "adafv.cli.listing.families",
    "adafv.cli.listing.methods",
    "adafv.models.photo.fetch.fetch",
    "adafv.utils.checks.checked",
}
"""Commands, servers and downloads, which a sweep would start, and the decorator itself."""


def modules() -> list[str]:
    names = [module.name for module in pkgutil.walk_packages(adafv.__path__, "adafv.")]
    return [name for name in names if not name.startswith(OPTIONAL)]


def public(module: str) -> list[tuple[str, Callable[..., Any]]]:
    """What a module's `__all__` names and defines itself: functions, and classes that are not
    abstract.
    """
    found = importlib.import_module(module)
    calls = [(name, getattr(found, name)) for name in getattr(found, "__all__", ())]
    own = [
        (name, call)
        for name, call in calls
        if callable(call) and getattr(call, "__module__", "") == module
    ]
    return [
        (name, call)
        for name, call in own
        if f"{module}.{name}" not in RUNS and not _not_called(call)
    ]


def _not_called(call: Callable[..., Any]) -> bool:
    if inspect.isabstract(call) or getattr(call, "_is_protocol", False):
        return True
    return isinstance(call, type) and issubclass(call, BaseException)


def required(call: Callable[..., Any]) -> list[str]:
    """Names of the arguments that have no default; those before a `*` too, which can all be given
    by name.
    """
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    parameters = inspect.signature(call).parameters.values()
    given = [p for p in parameters if p.kind in kinds]
    return [p.name for p in given if p.default is inspect.Parameter.empty] or [
        p.name for p in given[:1]
    ]


@pytest.mark.parametrize("module", modules())
def test_wrong_types(module, tmp_path, monkeypatch):
    """Every argument the same odd thing: none of Python's own errors comes through."""
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
                except ValueError:
                    pass
                except Exception:
                    pass
    assert not found, "\n".join(found)


def baselines(folder: Path) -> dict[str, tuple[Callable[..., Any], dict[str, Any]]]:
    """Calls that work, of what users call first."""
    from adafv import viz
    from adafv.batch.job import Batch
    from adafv.evaluation.evaluate import Evaluation
    from adafv.methods import from_spec
    from adafv.models.ask import ask
    from adafv.models.images import open_image
    from adafv.models.load import load
    from adafv.models.prompting import build_batch, build_inputs, check_question, prompt_for
    from adafv.models.saved import from_pretrained, save_pretrained
    from adafv.speed.run import Measurement
    from adafv.tuning.run import Tuning

    image, question = picture(24, 24), "what color is the anchor ?"
    image.save(folder / "a.png")
    picture(24, 24, seed=1).save(folder / "b.png")
    lines = folder / "in.jsonl"
    lines.write_text("".join(f'{{"image": "{x}.png", "question": "what"}}\n' for x in "ab"))
    model, processor, pruner = tiny_model("llava"), tiny_processor("llava"), AdaFV(keep=0.5)
    both = {
        "model": model,
        "processor": processor,
        "image": image,
        "question": question,
        "pruner": pruner,
    }
    return {
        "ask": (ask, {**both, "max_new_tokens": 1}),
        "build_inputs": (
            build_inputs,
            {"processor": processor, "image": image, "question": question},
        ),
        "build_batch": (
            build_batch,
            {"processor": processor, "images": [image], "questions": [question]},
        ),
        "check_question": (check_question, {"processor": processor, "question": question}),
        "prompt_for": (prompt_for, {"processor": processor, "question": question}),
        "explain": (viz.explain, {**both, "out": folder / "page.png", "max_new_tokens": 1}),
        "open_image": (open_image, {"path": folder / "a.png"}),
        "load": (load, {"model": folder, "device": "cpu", "dtype": "float32"}),
        "from_spec": (from_spec, {"spec": "adafv:reserve=0.5", "keep": 0.5}),
        "save_pretrained": (save_pretrained, {"pruner": pruner, "folder": folder}),
        "from_pretrained": (from_pretrained, {"folder": folder}),
        "Batch": (
            Batch,
            {"source": lines, "out": folder / "out.jsonl", "pruner": pruner, "batch_size": 2},
        ),
        "Evaluation": (
            Evaluation,
            {"methods": ["adafv"], "keeps": [0.5], "suites": ["scenes"], "limit": 2, "seed": 0},
        ),
        "Tuning": (
            Tuning,
            {"data": lines, "min_retention": 0.9, "methods": ["adafv"], "keeps": [0.5], "seed": 0},
        ),
        "Measurement": (
            Measurement,
            {"shape": "tiny", "batches": [1], "methods": ["adafv"], "keeps": [0.5]},
        ),
    }


CALLS = (
    *(
        "ask",
        "build_inputs",
        "build_batch",
        "check_question",
        "prompt_for",
        "explain",
        "open_image",
        "load",
    ),
    *(
        "from_spec",
        "save_pretrained",
        "from_pretrained",
        "Batch",
        "Evaluation",
        "Tuning",
        "Measurement",
    ),
)


@pytest.mark.parametrize("name", CALLS)
def test_one_wrong_argument(name, tmp_path, monkeypatch):
    """Beside right ones: a sentence that names it, or it works."""
    monkeypatch.chdir(tmp_path)
    call, right = baselines(tmp_path)[name]
    found = []
    for argument in right:
        for kind, value in ODD.items():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                try:
                    call(**{**right, argument: value})
                except ValueError as error:
                    assert str(error), (argument, kind)
                except Exception as error:
                    found.append(f"{name}({argument}={kind}): {type(error).__name__}: {error}")
    assert not found, "\n".join(found)


def test_what_works_is_never_refused():
    """Annotations are looked at once a call has failed, and an error that no argument explains
    stays as it is.
    """

    @checked
    def halved(values: list[int], by: int = 2) -> list[float]:
        return [value / by for value in values]

    assert halved((1.5, 3)) == [0.75, 1.5]
    with pytest.raises(ZeroDivisionError):
        halved([1], by=0)
    with pytest.raises(ValueError, match=r"values=\['a'\] is of type list: pass list of int"):
        halved(["a"])
    with pytest.raises(ValueError, match="by='2' is of type str: pass int"):
        halved([1], by="2")
    with pytest.raises(TypeError, match="missing"):
        halved()
