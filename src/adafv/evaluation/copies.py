"""Know which images are copies of one file under other names: they count as one image."""

import re
from collections.abc import Iterable

from adafv.utils.checks import checked

__all__ = ["first_copies"]

_CHECKSUM = re.compile(r"@([0-9a-f]{8})(#[0-9a-f]{8})?$")
"""How the id of an image of `adafv.evaluation.own` ends: its file's checksum, its questions'."""


@checked
def first_copies(ids: Iterable[str]) -> dict[str, str]:
    """Return for the id of each image that of the first one with the same content.

    Of images that are drawn, whose ids hold no checksum, each is its own.
    """
    found: dict[str, str] = {}
    first: dict[str, str] = {}
    for name in ids:
        checksum = _CHECKSUM.search(name)
        found[name] = first.setdefault(checksum[1], name) if checksum else name
    return found
