"""How to prune, as plain data: a method, its options and a budget.

The command line and lists of methods write it as text, `adafv:reserve=0.5:keep=10%`; model folders
as a JSON object, `{"method": "adafv", "reserve": 0.5, "keep": 0.1}`; vLLM's requests as options.
`adafv.methods.from_config` makes a pruner of it. No PyTorch here.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal, InvalidOperation
from operator import index
from types import NoneType, UnionType
from typing import Any, Literal, Self, get_args, get_origin

from adafv.utils.checks import LARGEST, check_size, checked

__all__ = [
    "DEFAULT_METHOD",
    "TEMPLATE",
    "PruneConfig",
    "check_type",
    "fits",
    "share_of",
    "skipped",
    "wanted",
]

DEFAULT_METHOD = "adafv+"
TEMPLATE = "template"
"""Stands in text for the token ids of a chat template's own words, which differ by tokenizer."""
BUDGETS = ("keep", "tokens")

_WANTED: dict[Any, str] = {
    bool: "true or false",
    int: "an integer",
    float: "a number",
    Iterable: "a list of token ids (or skip=template)",
}


class TemplateIds(frozenset[int]):
    """The token ids that `skip=template` stands for: written as that word, not as ids.

    Empty before there is a processor to know them by.
    """


@dataclass(frozen=True)
class PruneConfig:
    """A method, its options and a budget, as far as they are given.

    Attributes:
        method: a name of `adafv.METHODS`; None: not given.
        keep, tokens: the budget, see `adafv.core.settings.Settings`.
        options: of the method, by name.
    """

    method: str | None = None
    keep: float | None = None
    tokens: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_spec(cls, spec: str) -> Self:
        """Read a method as people write it: a name, then any number of `:option=value`.

        Raises:
            ValueError: an option without a value or given twice, or a budget that is no number.
        """
        method, *parts = spec.split(":")
        found: dict[str, Any] = {}
        for part in parts:
            option, equals, value = part.partition("=")
            if not (option and equals and value):
                raise ValueError(
                    f"{part!r} in {spec!r} is no option: write option=value, e.g. adafv:reserve=0.5"
                )
            if option in found:
                raise ValueError(f"{option} of {spec!r} is given already: leave one of the two out")
            # only a share may be written as a percentage
            found[option] = share_of(value) if option == "keep" else _value_of(value)

        tokens = found.pop("tokens", None)
        if tokens is not None and type(tokens) is not int:
            raise ValueError(
                f"tokens={tokens!r} is not a number of visual tokens: pass an integer of 1 or more"
            )
        return cls(method=method, keep=found.pop("keep", None), tokens=tokens, options=found)

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any], prefix: str = "") -> Self:
        """Read a JSON object: a method, which may be a spec, with options and a budget beside it.

        Options without a method are those of `DEFAULT_METHOD`.

        Args:
            prefix: stands before the names that errors call.

        Raises:
            ValueError: a method that is not text, a budget that is no number, or an option that
                stands in the spec and beside it.
        """
        options = {}
        for name, value in saved.items():
            if name not in ("method", *BUDGETS):
                options[name] = value
        method = saved.get("method")
        if method is None and options:
            method = DEFAULT_METHOD
        if method is not None and not isinstance(method, str):
            raise ValueError(
                f"{prefix}method={method!r} is not text: "
                f"pass the name of a method, e.g. {DEFAULT_METHOD!r}"
            )
        config = cls() if method is None else cls.from_spec(method)

        # a budget stands in the spec or beside it
        budget = {}
        for name, kind, example in (("keep", float, "0.1"), ("tokens", int, "144")):
            value = saved.get(name)
            check_size(f"{prefix}{name}", value)
            if value is not None and not fits(value, kind):
                raise ValueError(
                    f"{prefix}{name}={value!r} is not {wanted(kind)}: pass one, e.g. {example}"
                )
            if value is not None:
                budget[name] = value
        return config.given({**options, **budget})

    def given(self, more: Mapping[str, Any]) -> Self:
        """Return this with options and a budget that it doesn't have yet.

        Raises:
            ValueError: it has one of them.
        """
        present = {*self.options, *self.budget}
        for name, value in more.items():
            if name in present:
                raise ValueError(
                    f"{name}={value!r} of {self.method!r} is given already: "
                    "leave one of the two out"
                )
        options = dict(self.options)
        budget = {}
        for name, value in more.items():
            if name in BUDGETS:
                budget[name] = value
            else:
                options[name] = value
        return replace(self, **budget, options=options)

    def over(self, defaults: "PruneConfig") -> Self:
        """Return what is given here, and of what is not the defaults.

        A method takes its own options along, and a number of tokens stands before a default share.
        """
        named = defaults if self.method is None else self
        budget = self.budget or defaults.budget
        return replace(
            self,
            method=named.method,
            options=named.options,
            keep=budget.get("keep"),
            tokens=budget.get("tokens"),
        )

    @property
    def budget(self) -> dict[str, Any]:
        """Return the share or the number of tokens, as far as one is given."""
        found = {}
        for name in BUDGETS:
            if getattr(self, name) is not None:
                found[name] = getattr(self, name)
        return found

    @property
    def dense(self) -> bool:
        """Return whether nothing is to be pruned."""
        return self.keep == 1 or self.method == "none"

    @property
    def spec(self) -> str:
        """Return the method with its options, but without its budget: "adafv:reserve=0.5".

        Token ids (skip) are not written there.
        """
        parts = [DEFAULT_METHOD if self.method is None else self.method]
        for name, value in self.options.items():
            if isinstance(value, bool):
                parts.append(f"{name}={str(value).lower()}")
            elif isinstance(value, int | float | str):
                parts.append(f"{name}={value}")
        return ":".join(parts)


@checked
def share_of(text: str) -> float:
    """Return a share as a number: "0.1" and "10%" are the same.

    Raises:
        ValueError: it is neither, or more than 100%; whether a number lies between 0 and 1 is for
            others to say.
    """
    number, percent, rest = text.strip().partition("%")
    if rest:
        raise ValueError(f"{text!r} is not a number: pass a share such as 0.1, or 10%")
    try:
        # decimal: 7% is 0.07 and not 0.07000000000000001
        share = float(Decimal(number) / (100 if percent else 1))
    except (InvalidOperation, OverflowError):
        raise ValueError(f"{text!r} is not a number: pass a share such as 0.1, or 10%") from None
    if percent and share > 1:
        raise ValueError(f"{text!r} is more than all: pass 100% or less")
    return share


def _value_of(text: str) -> bool | int | float | str:
    """Return a value that a spec writes; what type an option has is for its method to say."""
    if text in ("true", "false"):
        return text == "true"
    for number in (int, float):
        try:
            return number(text)
        except ValueError:
            continue
    return text


def fits(value: Any, kind: Any) -> bool:
    """Return whether a plain value is of an option's type, that of its dataclass field."""
    if isinstance(kind, UnionType):
        return any(fits(value, one) for one in get_args(kind))
    if get_origin(kind) is Iterable:
        return isinstance(value, list | tuple) and all(fits(entry, int) for entry in value)
    if get_origin(kind) is Literal:
        return isinstance(value, str)
    # too large to be calculated with
    if type(value) is int and abs(value) > LARGEST:
        return False
    if kind is float:
        return type(value) in (int, float) and math.isfinite(value)
    return type(value) is kind


def check_type(name: str, value: Any, kind: Any, default: Any) -> None:
    """Raise a `ValueError` unless an option is of its type, as far as that is a plain one.

    Args:
        kind: type of its dataclass field.
        default: to be named as an example.
    """
    check_size(name, value)
    kinds = get_args(kind) if isinstance(kind, UnionType) else (kind,)
    if any(one not in (bool, int, float, NoneType) for one in kinds) or fits(value, kind):
        return
    example = f"e.g. {default}" if default is not None else "one"
    raise ValueError(f"{name}={value!r} is not {wanted(kind)}: pass {example}")


def skipped(ids: Iterable[int]) -> frozenset[int]:
    """Return token ids as a set; those of a template stay what they are.

    Raises:
        ValueError: something else than ids.
    """
    if isinstance(ids, TemplateIds):
        return ids
    try:
        return frozenset(map(index, ids))
    except TypeError:
        raise ValueError(
            f"skip={ids!r} is no list of token ids: pass e.g. "
            "adafv.models.boilerplate.boilerplate(processor)"
        ) from None


def wanted(kind: Any) -> str:
    """Return in words what values a type has."""
    if isinstance(kind, UnionType):
        return wanted(get_args(kind)[0])
    plain = get_origin(kind) or kind
    return _WANTED.get(plain, "text") if isinstance(plain, type) else "text"
