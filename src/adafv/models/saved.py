"""A pruner beside a model: its method, options and budget as JSON, and nothing that runs."""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from adafv import __version__
from adafv.core.config import TEMPLATE, PruneConfig, TemplateIds
from adafv.core.pruner import Pruner
from adafv.methods import KNOWN, from_config
from adafv.models.boilerplate import boilerplate
from adafv.models.hub import config_folder
from adafv.utils.checks import checked
from adafv.utils.files import writable_folder, write_text

__all__ = [
    "BLOCK",
    "FILE",
    "SERVER",
    "carried",
    "from_pretrained",
    "options_of",
    "read",
    "save_pretrained",
]

FILE = "adafv.json"
CONFIG = "config.json"
BLOCK = "adafv"  # the key in a model's configuration
# what a model folder may also say to a server, see `adafv.integrations.vllm.options`
SERVER = ("pin", "methods", "cache_mb", "image_cache_mb", "only")
_QUESTION = ("query", "tokenizer")  # options that belong to a prompt, not to a model


@checked
def save_pretrained(pruner: Pruner, folder: str | Path) -> Path:
    """Write the method, its options and its budget to `adafv.json` in a model's folder.

    `query` and `tokenizer` are not saved: they belong to a prompt. `adafv ask`, `batch`, `serve`
    and `explain` take the budget of a model's folder where no budget is given.

    Returns:
        The path of the file.

    Raises:
        ValueError: the folder cannot be written, its config.json says already how to prune, the
            method is not in `adafv.METHODS`, or an option is neither a plain number nor text.
    """
    path = writable_folder(folder) / FILE
    if _block(path.parent) is not None:
        raise ValueError(
            f"{CONFIG} in {folder} has an {BLOCK!r} block, which goes before {FILE}: "
            "take it out first"
        )
    if KNOWN.get(pruner.name) is not type(pruner):
        raise ValueError(
            f"{type(pruner).__name__} is not in adafv.METHODS, where loading looks for it: "
            "enter it there"
        )

    # None need not be said where it is the default
    options = options_of(pruner)
    for field in fields(pruner):
        if field.default is None and options.get(field.name) is None:
            options.pop(field.name, None)
    try:
        text = json.dumps(
            {"method": pruner.name, **options, "version": __version__}, indent=1, allow_nan=False
        )
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{pruner} cannot be saved as JSON ({error}): pass plain numbers and text"
        ) from None

    # what nobody could load is not saved
    _pruner(json.loads(text), path)
    write_text(path, text + "\n")
    return path


@checked
def from_pretrained(folder: str | Path, processor: Any = None) -> Pruner:
    """Return the pruner that a model folder carries, of whatever method.

    It stands in `adafv.json`, as `save_pretrained` writes it, or as the same object in the model's
    `config.json` under "adafv", which goes first. Only "keep" or "tokens" has to be there: the
    method is `adafv+` where no other is named, and options that are left out have their defaults.

    Args:
        folder: as in `carried`.
        processor: of the model; needed where the folder says `skip=template`, whose ids it knows.

    Raises:
        ValueError: no folder, nothing of a pruner in it, or a file that is damaged, of an unknown
            method, or has an option that the method doesn't have or a value that it refuses.
    """

    def template() -> Iterable[int]:
        if processor is None:
            raise ValueError(
                "skip=template stands for ids of a tokenizer: pass processor=, as adafv.load "
                "returns it"
            )
        return boilerplate(processor)

    pruner = carried(folder, template)
    if pruner is None:
        raise ValueError(
            f"{str(folder)!r} carries no pruner: pass a folder with {FILE}, "
            "as save_pretrained writes it"
        )
    return pruner


@checked
def carried(folder: str | Path, template: Callable[[], Iterable[int]] = tuple) -> Pruner | None:
    """Do as `from_pretrained`, but return None where a folder says nothing about pruning.

    The same where there is no folder.

    Args:
        folder: of a model; or a hub id, or "photo", whose configuration says it.
        template: gives the ids of `skip=template`; by default there are none, for want of a
            processor.
    """
    found, path = _find(config_folder(folder))
    if not found.keys() - {*SERVER, "version"}:
        return None
    return _pruner(found, path, template)


@checked
def read(folder: str | Path) -> dict[str, Any]:
    """Return what a folder says about pruning, unchecked; empty where it says nothing.

    Args:
        folder: as in `carried`.

    Raises:
        ValueError: the file is damaged.
    """
    return _find(config_folder(folder))[0]


@checked
def options_of(pruner: Pruner) -> dict[str, Any]:
    """Return all options of a pruner but `query` and `tokenizer`, as plain data."""
    options = {}
    for field in fields(pruner):
        if field.name not in _QUESTION:
            options[field.name] = getattr(pruner, field.name)
    named = isinstance(pruner.skip, TemplateIds)
    options["skip"] = TEMPLATE if named else sorted(pruner.skip)
    return options


def _find(folder: Path) -> tuple[dict[str, Any], Path]:
    """Return what a folder says about pruning, and the file that says it."""
    # the model's own configuration goes first: it travels with the model
    block = _block(folder)
    if block is not None:
        return block, folder / CONFIG
    path = folder / FILE
    if path.is_file():
        return _object(path, "write it anew with save_pretrained"), path
    return {}, path


def _block(folder: Path) -> dict[str, Any] | None:
    """Return what stands under "adafv" in a model's own configuration."""
    path = folder / CONFIG
    block = _object(path, "download it again").get(BLOCK) if path.is_file() else None
    if block is not None and not isinstance(block, dict):
        raise ValueError(
            f'{BLOCK}={block!r} in {path} is no JSON object: write e.g. "{BLOCK}": {{"keep": 0.1}}'
        )
    return block


def _object(path: Path, remedy: str) -> dict[str, Any]:
    """Read a file that holds one JSON object."""
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


def _pruner(
    found: Mapping[str, Any], path: Path, template: Callable[[], Iterable[int]] = tuple
) -> Pruner:
    """Make the pruner that a file describes; errors name the file."""
    described = {}
    for name, value in found.items():
        if name not in ("version", *SERVER):
            described[name] = value
    try:
        return from_config(PruneConfig.from_dict(described), template)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
