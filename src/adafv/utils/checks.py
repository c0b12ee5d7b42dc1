"""Arguments of a wrong type: one sentence that names them, not a traceback from the depths."""

import inspect
import operator
import sys
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from difflib import get_close_matches
from functools import wraps
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

__all__ = ["checked", "did_you_mean", "has_surrogate", "is_out_of_memory", "one_of"]

F = TypeVar("F", bound=Callable[..., Any])

_RAW = (AttributeError, LookupError, TypeError, RuntimeError)
LARGEST = 2**63 - 1  # integer that a tensor has room for
_SMALLEST = 1e-30  # to divide by in fp32
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
        # a class remains what it is: only its construction is looked at
        function.__init__ = _explained(function.__init__, function.__module__)  # type: ignore[misc]
        return function
    return typing.cast(F, _explained(function, function.__module__))


def _explained(call: Callable[..., Any], module: str) -> Callable[..., Any]:
    @wraps(call)
    def explained(*args: Any, **kwargs: Any) -> Any:
        try:
            return call(*args, **kwargs)
        except _RAW as error:
            # only now is it worth looking: a good call pays nothing
            if complaint := _complaint(call, _hints(call, module), args, kwargs, error):
                raise ValueError(complaint) from error
            raise

    return explained


def _hints(call: Callable[..., Any], module: str) -> dict[str, Any]:
    """Return the annotations of a call, without those that only a type checker can resolve."""
    names = vars(sys.modules[module])
    found: dict[str, Any] = {}
    for name, hint in call.__annotations__.items():
        # names under TYPE_CHECKING do not exist when a program runs
        with suppress(Exception):
            found[name] = eval(hint, names) if isinstance(hint, str) else hint
    return found


def _complaint(
    call: Callable[..., Any],
    hints: dict[str, Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    error: Exception,
) -> str:
    """Say what is wrong with the arguments of a call that has failed; empty: nothing that shows."""
    # too few, too many or misnamed arguments: Python's own message says it
    try:
        arguments = inspect.signature(call).bind(*args, **kwargs).arguments
    except TypeError:
        return ""
    arguments.pop("self", None)

    # a type that the annotation does not allow
    for name, value in arguments.items():
        if not _fits(value, hints.get(name, Any)):
            kind = type(value).__name__
            return f"{name}={_shown(value)} is of type {kind}: pass {_wanted(hints[name])}"

    # a type that is allowed, and lacks what was asked of it
    for name, value in arguments.items():
        if found := _lacks(name, value, error):
            return found

    # tensors of good types whose shapes do not go together
    shapes = []
    for name, value in arguments.items():
        if hasattr(value, "shape"):
            shapes.append(f"{name} {tuple(value.shape)}")
    unfit = isinstance(error, RuntimeError | IndexError) and not is_out_of_memory(error)
    if shapes and unfit:
        reason = str(error).split("\n")[0]
        return (
            f"{call.__name__} cannot take {', '.join(shapes)} ({reason}): "
            "pass the shapes that its documentation gives"
        )
    return ""


def _lacks(name: str, value: Any, error: Exception) -> str:
    """Say which attribute or entry an argument lacks, if that is what the error is about."""
    remedy = f"pass what the documentation of {name} says"
    if isinstance(error, AttributeError) and error.obj is value:
        return f"{name}={_shown(value)} has no {error.name!r}: {remedy}"
    if isinstance(error, KeyError):
        key = error.args[0]
        if any(key not in entry for entry in _mappings(value)):
            return f"{name} has no entry {key!r}: {remedy}"
    if isinstance(error, IndexError) and isinstance(value, list | tuple) and not value:
        return f"{name} is empty: pass at least one"
    return ""


def _mappings(value: Any) -> list[Mapping[Any, Any]]:
    """Return an argument if it is a mapping, or the mappings in a list of them."""
    if isinstance(value, Mapping):
        return [value]
    if isinstance(value, list | tuple):
        return [entry for entry in value if isinstance(entry, Mapping)]
    return []


def _fits(value: Any, hint: Any) -> bool:
    """Tell if a value is of an annotated type; where that cannot be told, it is."""
    origin = get_origin(hint)
    inner = get_args(hint)
    if origin in (Union, UnionType):
        return any(_fits(value, one) for one in inner)
    # one of several values, not of a type
    if origin is Literal:
        return value in inner
    if hint is None or hint is NoneType:
        return value is None
    # numbers of NumPy and tensors of one number are as good as Python's
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
    except (TypeError, ValueError, RuntimeError, OverflowError):
        return False  # text, and arrays and tensors of more than one number
    return True


def _entries_fit(value: Any, kind: type, inner: tuple[Any, ...]) -> bool:
    """Tell if what a collection holds is of the types in the brackets of its annotation."""
    if not inner or isinstance(value, Mapping):
        return True
    # an iterator must not be used up by looking at it
    if not issubclass(kind, Iterable) or not hasattr(value, "__len__"):
        return True

    # a tuple of fixed length names the type of each entry
    if kind is tuple and inner[-1] is not Ellipsis:
        return len(value) == len(inner) and all(map(_fits, value, inner))
    try:
        return all(_fits(x, inner[0]) for x in value)
    except TypeError:  # a tensor of no dimension
        return False


def _wanted(hint: Any) -> str:
    """Name an annotated type as a sentence does."""
    if get_origin(hint) in (Union, UnionType):
        return " or ".join(_wanted(one) for one in get_args(hint))
    if get_origin(hint) is Literal:
        return " or ".join(map(repr, get_args(hint)))
    if hint is None or hint is NoneType:
        return "None"
    # in brackets only plain types help a reader
    inner = [_wanted(one) for one in get_args(hint) if one is not Any and isinstance(one, type)]
    name = getattr(get_origin(hint) or hint, "__name__", str(hint))
    return f"{name} of {' and '.join(inner)}" if inner else name


def _shown(value: Any) -> str:
    # a tensor's repr has many lines
    text = " ".join(repr(value).split())
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


@checked
def did_you_mean(name: str, known: Iterable[str], otherwise: str) -> str:
    """Suggest the known name that is closest to an unknown one.

    Args:
        otherwise: what to say where none is close.
    """
    close = get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else otherwise


@checked
def has_surrogate(text: str) -> bool:
    """Return whether text holds half a character, as Python reads bytes that are not UTF-8."""
    return any("\ud800" <= character <= "\udfff" for character in text)


@checked
def is_out_of_memory(error: Exception) -> bool:
    """Return whether an error says that there is too little memory, of a device or of the machine.

    Its class tells, but for PyTorch's on a CPU, which is any `RuntimeError`.
    """
    # by its name: PyTorch is not imported here
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)


def one_of(name: str, value: object, *known: str) -> None:
    """Raise a `ValueError` unless an option has one of its known values."""
    if value not in known:
        raise ValueError(f"{name}={value!r} is unknown: pass one of {', '.join(map(repr, known))}")


def check_size(name: str, value: Any) -> None:
    """Raise a `ValueError` for an integer that a tensor has no room for."""
    if isinstance(value, int) and abs(value) > LARGEST:
        raise ValueError(f"{name}={_shown(value)} is out of range: pass a number nearer to 0")


def positive(name: str, value: float, example: float) -> None:
    """Raise a `ValueError` unless an option is above 0, and large enough to divide by."""
    if not value > 0:
        raise ValueError(f"{name}={value} is not positive: pass e.g. {example}")
    if value < _SMALLEST:
        raise ValueError(f"{name}={value} is too small to divide by: pass e.g. {example}")
