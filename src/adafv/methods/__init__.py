"""The methods by name. A new one is a file here and its class in `CLASSES`."""

import difflib
from collections.abc import Callable, Iterable
from dataclasses import fields
from typing import Any

from adafv.core.option_types import reader_of
from adafv.core.pruner import Pruner
from adafv.core.spec import without_budget
from adafv.methods.adafv import AdaFV
from adafv.methods.adafv_plus import AdaFVPlus
from adafv.methods.adafv_released import AdaFVReleased
from adafv.methods.cdpruner import CDPruner
from adafv.methods.dart import DART
from adafv.methods.divprune import DivPrune
from adafv.methods.fastervlm import FasterVLM
from adafv.methods.fastv import FastV
from adafv.methods.hiprune import HiPrune
from adafv.methods.hired import HiRED
from adafv.methods.mmtok import MMTok
from adafv.methods.none import NoPruning
from adafv.methods.pdrop import PyramidDrop
from adafv.methods.pool import Pool
from adafv.methods.prumerge import PruMerge, PruMergePlus
from adafv.methods.random import Random
from adafv.methods.scope import Scope
from adafv.methods.sparsevlm import SparseVLM
from adafv.methods.t2i import TextToImage
from adafv.methods.tome import ToMe
from adafv.methods.uniform import Uniform
from adafv.methods.visionzip import VisionZip
from adafv.methods.vispruner import VisPruner
from adafv.utils.checks import checked

__all__ = [
    "CLASSES",
    "DART",
    "METHODS",
    "AdaFV",
    "AdaFVPlus",
    "AdaFVReleased",
    "CDPruner",
    "DivPrune",
    "FastV",
    "FasterVLM",
    "HiPrune",
    "HiRED",
    "MMTok",
    "NoPruning",
    "Pool",
    "PruMerge",
    "PruMergePlus",
    "PyramidDrop",
    "Random",
    "Scope",
    "SparseVLM",
    "TextToImage",
    "ToMe",
    "Uniform",
    "VisPruner",
    "VisionZip",
    "from_spec",
    "method",
]

CLASSES: tuple[type[Pruner], ...] = (
    AdaFV,
    AdaFVPlus,
    AdaFVReleased,
    FasterVLM,
    TextToImage,
    VisPruner,
    VisionZip,
    PruMerge,
    PruMergePlus,
    HiRED,
    HiPrune,
    DivPrune,
    CDPruner,
    DART,
    Scope,
    MMTok,
    ToMe,
    FastV,
    SparseVLM,
    PyramidDrop,
    Random,
    Uniform,
    Pool,
    NoPruning,
)
METHODS: dict[str, type[Pruner]] = {cls.name: cls for cls in CLASSES}


@checked
def method(name: str, **options: Any) -> Pruner:
    """Make a pruner by its name: `method("adafv", keep=0.1)`.

    Raises:
        ValueError: an unknown name (the closest one is suggested), or options the method refuses.
    """
    cls = METHODS.get(name)
    if cls is None:
        close = difflib.get_close_matches(name, METHODS, n=1, cutoff=0.5)
        hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(METHODS)}"
        raise ValueError(f"method {name!r} is unknown: {hint}")

    known = [field.name for field in fields(cls)]
    for option, value in options.items():
        if option not in known:
            raise ValueError(
                f"{option}={value!r} is no option of {name}: it takes {', '.join(known)}"
            )
    return cls(**options)


@checked
def from_spec(spec: str, template: Callable[[], Iterable[int]] = tuple, **options: Any) -> Pruner:
    """Make a pruner as lists of methods write it: `from_spec("adafv:reserve=0.5", keep=0.1)`.

    Args:
        spec: a name, then any number of `:option=value`, the budget among them if it has one of its
            own.
        template: gives the token ids that `skip=template` stands for, see
            `adafv.models.boilerplate.boilerplate`.
        options: of the method, beside those of the spec.

    Raises:
        ValueError: see `method`; an option without a value, twice, or with a value that is not of
            its type.
    """
    # the budget may stand in the spec or beside it, not in both
    spec, budget = without_budget(spec)
    given = {option: value for option, value in options.items() if value is not None}
    for option, value in budget.items():
        if option in given:
            raise ValueError(
                f"{option}={value!r} of {spec!r} is given already: leave one of the two out"
            )
    options = {**given, **budget}

    # name:option=value:option=value
    name, *parts = spec.split(":")
    for part in parts:
        option, equals, value = part.partition("=")
        if not (option and equals and value):
            raise ValueError(
                f"{part!r} in {spec!r} is no option: write option=value, e.g. adafv:reserve=0.5"
            )
        if option in options:
            raise ValueError(f"{option} of {spec!r} is given already: leave one of the two out")
        options[option] = _value(name, option, value, template)
    return method(name, **options)


def _value(name: str, option: str, value: str, template: Callable[[], Iterable[int]]) -> Any:
    """Read an option of a method from text, as the type of its field."""
    if option == "skip":
        if value != "template":
            raise ValueError(f"skip={value!r} is unknown in a list of methods: pass skip=template")
        return template()

    # an unknown name or option is for `method` to refuse
    known = {field.name: field for field in fields(METHODS[name])} if name in METHODS else {}
    if option not in known:
        return value

    field = known[option]
    read = reader_of(field.type)
    if read is None:
        raise ValueError(
            f"{option}={value!r} cannot be given in a list of methods: set it in Python"
        )
    try:
        return read(value)
    except (KeyError, ValueError):
        example = 1 if field.default is None else field.default
        kind = "true or false" if field.type is bool else f"a number such as {example}"
        raise ValueError(f"{option}={value!r} of {name} is not valid: pass {kind}") from None
