"""The model `photo`: a tower and a language model that others pretrained, and their bridge."""

import os
from pathlib import Path

from adafv.utils.checks import checked
from adafv.utils.files import expanded

__all__ = ["BRIDGE", "NAME", "fetched", "folder", "home"]

NAME = "photo"
BRIDGE = Path(__file__).resolve().parent / "bridge.safetensors"


@checked
def home() -> Path:
    """Return the folder for what is fetched: `ADAFV_HOME`, or `~/.cache/adafv`."""
    # read at every call: tests and notebooks set the variable after the import
    return expanded(os.environ.get("ADAFV_HOME") or "~/.cache/adafv")


@checked
def folder() -> Path:
    """Return the folder of the photo model, whether or not it has been fetched."""
    return home() / NAME


@checked
def fetched() -> bool:
    """Return whether the photo model is there."""
    return (folder() / "config.json").is_file()
