"""A pruner beside a model: its method, options and budget as JSON, and nothing that runs."""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from types import UnionType
from typing import Any, Literal, NoReturn, get_args, get_origin

from adafv import __version__
from adafv.core.pruner import Pruner
from adafv.methods import METHODS, from_spec
from adafv.utils.checks import checked
from adafv.utils.files import writable_folder, write_text

__all__ = ["BLOCK", "FILE", "carried", "from_pretrained", "options_of", "read", "save"]

FILE, CONFIG, BLOCK = "adafv.json", "config.json", "adafv"
DEFAULT_METHOD = "adafv"
SERVER = ("pin", "cache_mb", "only")
"""What a model folder may say to a server beside the method; see `adafv.integrations.vllm.options`.
"""
_QUESTION = ("query", "tokenizer")


@checked
def save(pruner: Pruner, folder: str | Path) -> Path:
    """Write `adafv.json`: see `Pruner.save_pretrained`, which is this."""
    path = writable_folder(folder) / FILE
    if _block(path.parent) is not None:
        raise ValueError(
            f"{CONFIG} in {folder} has an {BLOCK!r} block, which goes before {FILE}: take it out first"
        )
    if METHODS.get(pruner.name) is not type(pruner):
        raise ValueError(
            f"{type(pruner).__name__} is not in adafv.METHODS, where loading looks for it: enter it there"
        )
    default = {field.name: field.default for field in fields(pruner)}
    options = {
        n: v for n, v in options_of(pruner).items() if v is not None or default[n] is not None
    }
    try:
        text = json.dumps(
            {"method": pruner.name, **options, "version": __version__}, indent=1, allow_nan=False
        )
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{pruner} cannot be saved as JSON ({error}): pass plain numbers and text"
        ) from None
    _pruner(json.loads(text), path)
    write_text(path, text + "\n")
    return path


@checked
def from_pretrained(folder: str | Path) -> Pruner:
    """The pruner that a model folder carries, of whatever method.

    It stands in `adafv.json`, as `Pruner.save_pretrained` writes it, or as the same object in the
    model's `config.json` under "adafv", which goes first. Only "keep" or "tokens" has to be there:
    the method is AdaFV where none is named, and options that are left out have their defaults.

    Raises:
        ValueError: no folder, nothing of a pruner in it, or a file that is damaged, of an unknown
            method, or has an option that the method doesn't have or a value that it refuses.
    """
    if (pruner := carried(folder)) is None:
        raise ValueError(
            f"{str(folder)!r} carries no pruner: pass a folder with {FILE}, as save_pretrained writes it"
        )
    return pruner


@checked
def carried(folder: str | Path) -> Pruner | None:
    """As `from_pretrained`, None where the folder says nothing about pruning or is none."""
    found, path = _find(Path(folder).expanduser())
    return _pruner(found, path) if found.keys() - {*SERVER, "version"} else None


@checked
def read(folder: str | Path) -> dict[str, Any]:
    """What a folder says about pruning, unchecked; empty: nothing.

    Raises:
        ValueError: the file is damaged.
    """
    return _find(Path(folder).expanduser())[0]


@checked
def options_of(pruner: Pruner) -> dict[str, Any]:
    """All options of a pruner but `query` and `tokenizer`, as plain data."""
    options = {f.name: getattr(pruner, f.name) for f in fields(pruner) if f.name not in _QUESTION}
    return options | {"skip": sorted(pruner.skip)}


def _find(folder: Path) -> tuple[dict[str, Any], Path]:
    if (block := _block(folder)) is not None:
        return block, folder / CONFIG
    path = folder / FILE
    return (_object(path, "write it anew with save_pretrained") if path.is_file() else {}), path


def _block(folder: Path) -> dict[str, Any] | None:
    """What stands under "adafv" in a model's own configuration."""
    path = folder / CONFIG
    block = _object(path, "download it again").get(BLOCK) if path.is_file() else None
    if block is not None and not isinstance(block, dict):
        raise ValueError(
            f'{BLOCK}={block!r} in {path} is no JSON object: write e.g. "{BLOCK}": {{"keep": 0.1}}'
        )
    return block


def _object(path: Path, remedy: str) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(
            f"{path} cannot be read ({error.strerror}): check its permissions"
        ) from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged ({error}): {remedy}") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path} holds no JSON object: {remedy}")
    return found


def _pruner(found: Mapping[str, Any], path: Path) -> Pruner:
    options = {
        name: value for name, value in found.items() if name not in ("method", "version", *SERVER)
    }
    spec = found.get("method", DEFAULT_METHOD)
    try:
        if not isinstance(spec, str):
            raise ValueError(
                f"method={spec!r} is not text: write the name of a method, e.g. {DEFAULT_METHOD!r}"
            )
        if cls := METHODS.get(spec.partition(":")[0]):
            _check(cls, options)
        return from_spec(spec, _template, **options)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _check(cls: type[Pruner], options: Mapping[str, Any]) -> None:
    """Raise a `ValueError` for a value of another type than its option's: a text where a method
    would calculate.
    """
    if question := options.keys() & {*_QUESTION}:
        raise ValueError(f"{question.pop()} belongs to a question, not to a model: leave it out")
    for field in fields(cls):
        if field.name in options and not _fits(options[field.name], field.type):
            raise ValueError(
                f"{field.name}={options[field.name]!r} is not {_wanted(field.type)}: write one"
            )


def _fits(value: Any, kind: Any) -> bool:
    if isinstance(kind, UnionType):
        return any(_fits(value, one) for one in get_args(kind))
    if get_origin(kind) is Iterable:
        return isinstance(value, list) and all(type(x) is int for x in value)
    if kind is float:
        return type(value) in (int, float) and math.isfinite(value)
    return type(value) is (str if get_origin(kind) is Literal else kind)


def _wanted(kind: Any) -> str:
    if isinstance(kind, UnionType):
        return _wanted(get_args(kind)[0])
    names = {
        bool: "true or false",
        int: "an integer",
        float: "a number",
        Iterable: "a list of token ids",
    }
    return names.get(get_origin(kind) or kind, "text")


def _template() -> NoReturn:
    raise ValueError(
        "skip=template stands for ids of a tokenizer, which is not at hand here: write them out as a list"
    )
