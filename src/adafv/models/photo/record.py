"""What the photo model in a folder was put together from."""

import json
from pathlib import Path
from typing import Any

from adafv.models.photo import BRIDGE, folder
from adafv.models.photo.packages import PACKAGES, sha256
from adafv.utils.checks import checked

__all__ = ["RECORD", "check_current", "parts", "recorded"]

RECORD = "adafv-photo.json"
RECIPE = "1"
"""Raised when `assemble` makes another model of the same files."""


@checked
def parts(bridge: Path) -> dict[str, str]:
    """Return what a model is made of: versions of packages, and the digest of a bridge."""
    versions = {package.name: package.version for package in PACKAGES}
    return versions | {"bridge": sha256(bridge), "recipe": RECIPE}


@checked
def recorded(target: Path) -> dict[str, Any] | None:
    """Return what the model in a folder was made of; None: it is missing, incomplete or damaged."""
    path = target / RECORD
    if not path.is_file() or not (target / "config.json").is_file():
        return None
    try:
        found = json.loads(path.read_text())
    # brackets may be nested deeper than Python reads
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


@checked
def check_current() -> None:
    """Raise a `ValueError` if an earlier version of this package has put the photo model together.

    One with a bridge of the user's own stays what it is.
    """
    found = recorded(folder())
    if found is None or found.get("own_bridge") or not BRIDGE.is_file():
        return
    if found != parts(BRIDGE) | {"own_bridge": False}:
        raise ValueError(
            "the photo model that was fetched is not that of this version: run "
            "`adafv fetch photo` again"
        )
