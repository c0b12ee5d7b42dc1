"""Arguments of a wrong type: one sentence that names the argument, not a traceback from the depths."""

import inspect
import operator
import sys
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import wraps
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

__all__ = ["checked"]

F = TypeVar("F", bound=Callable[..., Any])

_RAW = (AttributeError, LookupError, TypeError, RuntimeError)
_LONGEST = 60  # characters of a value that a message shows


def checked(function: F) -> F:
    """Turn the error that a wrong argument causes into a `ValueError` of one sentence.

    Arguments are looked at once a call has failed, so that whatever works is never refused, and a
    call that works costs nothing. An error that no argument explains stays as it is.

    Args:
        function: or a class, whose construction is looked at. Its annotations say what the
            arguments have to be.
    """
    if isinstance(function, type):
        function.__init__ = _explained(function.__init__, function.__module__)  # type: ignore[misc]
        return function
    return typing.cast(F, _explained(function, function.__module__))


def _explained(call: Callable[..., Any], module: str) -> Callable[..., Any]:
    @wraps(call)
    def explained(*args: Any, **kwargs: Any) -> Any:
        try:
            return call(*args, **kwargs)
        except _RAW as error:
            if complaint := _complaint(call, _hints(call, module), args, kwargs, error):
                raise ValueError(complaint) from error
            raise

    return explained


def _hints(call: Callable[..., Any], module: str) -> dict[str, Any]:
    """The annotations of a call's arguments, without those that only a type checker can resolve."""
    found: dict[str, Any] = {}
    for name, hint in call.__annotations__.items():
        with suppress(Exception):
            found[name] = eval(hint, vars(sys.modules[module])) if isinstance(hint, str) else hint
    return found


def _complaint(
    call: Callable[..., Any],
    hints: dict[str, Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    error: Exception,
) -> str:
    """What is wrong with the arguments of a call that has failed; empty: nothing that shows."""
    try:
        arguments = inspect.signature(call).bind(*args, **kwargs).arguments
    except TypeError:
        return ""
    arguments = {name: value for name, value in arguments.items() if name != "self"}
    for name, value in arguments.items():
        if not _fits(value, hints.get(name, Any)):
            return f"{name}={_shown(value)} is of type {type(value).__name__}: pass {_wanted(hints[name])}"
    for name, value in arguments.items():
        if isinstance(error, AttributeError) and error.obj is value:
            return f"{name}={_shown(value)} has no {error.name!r}: pass what the documentation of {name} says"
        if isinstance(error, KeyError) and any(
            error.args[0] not in entry for entry in _mappings(value)
        ):
            return (
                f"{name} has no entry {error.args[0]!r}: pass what the documentation of {name} says"
            )
        if isinstance(error, IndexError) and isinstance(value, list | tuple) and not value:
            return f"{name} is empty: pass at least one"
    shapes = [
        f"{name} {tuple(value.shape)}"
        for name, value in arguments.items()
        if hasattr(value, "shape")
    ]
    if (
        shapes
        and isinstance(error, RuntimeError | IndexError)
        and type(error).__name__ != "OutOfMemoryError"
    ):
        reason = str(error).split("\n")[0]
        return f"{call.__name__} cannot take {', '.join(shapes)} ({reason}): pass the shapes that its documentation gives"
    return ""


def _mappings(value: Any) -> list[Mapping[Any, Any]]:
    if isinstance(value, Mapping):
        return [value]
    return (
        [entry for entry in value if isinstance(entry, Mapping)]
        if isinstance(value, list | tuple)
        else []
    )


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value is of an annotated type; where that cannot be told, it is."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return any(_fits(value, one) for one in inner)
    if origin is Literal:
        return value in inner
    if hint is None or hint is NoneType:
        return value is None
    if hint in (int, float):
        return _converts(value, hint)
    kind = origin or hint
    if not isinstance(kind, type):
        return True
    try:
        fitting = isinstance(value, kind)
    except TypeError:  # a protocol that is not for looking at instances
        return True
    return fitting and _entries_fit(value, kind, inner)


def _converts(value: Any, hint: type) -> bool:
    if isinstance(value, bool | str):
        return False
    try:
        operator.index(value) if hint is int else float(value)
    except (
        TypeError,
        ValueError,
        RuntimeError,
        OverflowError,
    ):  # arrays and tensors of more than one number, too
        return False
    return True


def _entries_fit(value: Any, kind: type, inner: tuple[Any, ...]) -> bool:
    """Whether what a collection holds is of the types in the brackets of its annotation."""
    if (
        not inner
        or isinstance(value, Mapping)
        or not issubclass(kind, Iterable)
        or not hasattr(value, "__len__")
    ):
        return True
    if kind is tuple and inner[-1] is not Ellipsis:
        return len(value) == len(inner) and all(
            _fits(x, one) for x, one in zip(value, inner, strict=True)
        )
    try:
        return all(_fits(x, inner[0]) for x in value)
    except TypeError:  # a tensor of no dimension
        return False


def _wanted(hint: Any) -> str:
    if get_origin(hint) in (Union, UnionType):
        return " or ".join(_wanted(one) for one in get_args(hint))
    if get_origin(hint) is Literal:
        return " or ".join(map(repr, get_args(hint)))
    if hint is None or hint is NoneType:
        return "None"
    inner = [_wanted(one) for one in get_args(hint) if one is not Any and isinstance(one, type)]
    name = getattr(get_origin(hint) or hint, "__name__", str(hint))
    return f"{name} of {' and '.join(inner)}" if inner else name


def _shown(value: Any) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
