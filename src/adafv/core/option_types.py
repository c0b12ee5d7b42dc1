"""Types of a method's options: how text becomes a value, and whether a value is of one.

The types are those of the dataclass fields; nothing else says them.
"""

import math
from collections.abc import Callable, Iterable
from types import UnionType
from typing import Any, Literal, get_args, get_origin

__all__ = ["fits", "reader_of", "wanted"]

_READERS: dict[Any, Callable[[str], Any]] = {
    bool: {"true": True, "false": False}.__getitem__,
    int: int,
    float: float,
    str: str,
}
_WANTED: dict[Any, str] = {
    bool: "true or false",
    int: "an integer",
    float: "a number",
    Iterable: "a list of token ids",
}


def _plain(kind: Any) -> Any:
    """Return the type without `| None`; a union of more comes back as it is."""
    if isinstance(kind, UnionType):
        others = [one for one in get_args(kind) if one is not type(None)]
        return others[0] if len(others) == 1 else kind
    return str if get_origin(kind) is Literal else kind


def reader_of(kind: Any) -> Callable[[str], Any] | None:
    """Return what makes a value of a type from text, None for a type that text cannot express.

    It raises a `KeyError` or a `ValueError` for any other text.
    """
    plain = _plain(kind)
    return _READERS.get(plain) if isinstance(plain, type) else None


def fits(value: Any, kind: Any) -> bool:
    """Say whether a value that was read from JSON is of an option's type."""
    if isinstance(kind, UnionType):
        return any(fits(value, one) for one in get_args(kind))
    if get_origin(kind) is Iterable:
        return isinstance(value, list) and all(type(entry) is int for entry in value)
    if kind is float:
        return type(value) in (int, float) and math.isfinite(value)
    return type(value) is _plain(kind)


def wanted(kind: Any) -> str:
    """Say in words what values a type has."""
    if isinstance(kind, UnionType):
        return wanted(get_args(kind)[0])
    plain = get_origin(kind) or kind
    return _WANTED.get(plain, "text") if isinstance(plain, type) else "text"
