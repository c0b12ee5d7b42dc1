"""The methods by name. A new one is a file here and its class in `CLASSES`."""

from collections import ChainMap
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields, replace
from typing import Any

from adafv.core.config import (
    DEFAULT_METHOD,
    TEMPLATE,
    PruneConfig,
    TemplateIds,
    fits,
    wanted,
)
from adafv.core.pruner import Pruner
from adafv.methods.adafv import AdaFV
from adafv.methods.adafv_plus import AdaFVPlus
from adafv.methods.adafv_released import AdaFVReleased
from adafv.methods.cdpruner import CDPruner
from adafv.methods.coverpruner import CoverPruner
from adafv.methods.dart import DART
from adafv.methods.divprune import DivPrune
from adafv.methods.evs import EVS
from adafv.methods.fastervlm import FasterVLM
from adafv.methods.fastv import FastV
from adafv.methods.hiprune import HiPrune
from adafv.methods.hired import HiRED
from adafv.methods.mmr import MMR
from adafv.methods.mmtok import MMTok
from adafv.methods.none import NoPruning
from adafv.methods.pdrop import PyramidDrop
from adafv.methods.pool import Pool
from adafv.methods.prumerge import PruMerge, PruMergePlus
from adafv.methods.prunesid import PruneSID
from adafv.methods.random import Random
from adafv.methods.resize import Resize
from adafv.methods.scope import Scope
from adafv.methods.sfpruner import SFPruner
from adafv.methods.sparsevlm import SparseVLM
from adafv.methods.stacktok import StackTok
from adafv.methods.t2i import TextToImage
from adafv.methods.tome import ToMe
from adafv.methods.uniform import Uniform
from adafv.methods.vcast import VCAST
from adafv.methods.vidcom2 import VidCom2
from adafv.methods.visionzip import VisionZip
from adafv.methods.vispruner import VisPruner
from adafv.utils.checks import check_size, checked, did_you_mean

__all__ = [
    "BASELINES",
    "CLASSES",
    "DART",
    "EVS",
    "METHODS",
    "MMR",
    "VCAST",
    "VIDEO_CLASSES",
    "VIDEO_METHODS",
    "AdaFV",
    "AdaFVPlus",
    "AdaFVReleased",
    "CDPruner",
    "CoverPruner",
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
    "PruneSID",
    "PyramidDrop",
    "Random",
    "Resize",
    "SFPruner",
    "Scope",
    "SparseVLM",
    "StackTok",
    "TextToImage",
    "ToMe",
    "Uniform",
    "VidCom2",
    "VisPruner",
    "VisionZip",
    "from_config",
    "from_spec",
    "method",
    "without_defaults",
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
    SFPruner,
    PruneSID,
    CoverPruner,
    MMR,
    StackTok,
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
BASELINES: dict[str, type[Pruner]] = {Resize.name: Resize}
"""What is measured beside the methods, and prunes nothing that a tower has made."""
VIDEO_CLASSES: tuple[type[Pruner], ...] = (EVS, VidCom2, VCAST)
VIDEO_METHODS: dict[str, type[Pruner]] = {cls.name: cls for cls in VIDEO_CLASSES}
"""What compares the frames of a video, and refuses images."""
KNOWN = ChainMap(METHODS, BASELINES, VIDEO_METHODS)


@checked
def method(name: str, **options: Any) -> Pruner:
    """Make a pruner by its name: `method("adafv", keep=0.1)`.

    Raises:
        ValueError: an unknown name (the closest one is suggested), or options the method refuses.
    """
    return _made(name, options)


def _made(name: str, options: Mapping[str, Any]) -> Pruner:
    """Make a pruner; an option may be called anything, "name" too, and is refused then."""
    cls = KNOWN.get(name)
    if cls is None:
        hint = did_you_mean(name, KNOWN, f"there are {', '.join(METHODS)}")
        raise ValueError(f"method {name!r} is unknown: {hint}")

    known = [field.name for field in fields(cls)]
    for option, value in options.items():
        if option not in known:
            raise ValueError(
                f"{option}={value!r} is no option of {name}: it takes {', '.join(known)}"
            )
    return cls(**options)


@checked
def from_config(
    config: PruneConfig, template: Callable[[], Iterable[int]] = tuple, **options: Any
) -> Pruner:
    """Make the pruner that a configuration describes.

    Args:
        config: what is not given there has the method's defaults, and the method is `adafv+`.
        template: gives the token ids that `skip=template` stands for, see
            `adafv.models.boilerplate.boilerplate`.
        options: of the method, beside those of the configuration.

    Raises:
        ValueError: see `method`; an option with a value that is not of its type, or given twice.
    """
    name = DEFAULT_METHOD if config.method is None else config.method
    # an unknown name is for `method` to refuse
    known = {field.name: field.type for field in fields(KNOWN[name])} if name in KNOWN else {}
    read = dict(config.options)
    for option, value in config.options.items():
        if option in ("query", "tokenizer"):
            raise ValueError(f"{option} belongs to a question: leave it out, or set it in Python")
        if option == "skip" and value == TEMPLATE:
            read[option] = TemplateIds(template())
            continue
        check_size(option, value)
        # a text where a method would calculate fails only later, in the depths
        if option in known and not fits(value, known[option]):
            raise ValueError(
                f"{option}={value!r} is not {wanted(known[option])}, which {name} takes there"
            )

    whole = replace(config, options=read).given(options)
    return _made(name, {**whole.options, **whole.budget})


@checked
def without_defaults(config: PruneConfig) -> PruneConfig:
    """Return a configuration without the options that say what the method does anyway."""
    defaults = {}
    cls = KNOWN.get(DEFAULT_METHOD if config.method is None else config.method)
    for field in fields(cls) if cls else ():
        defaults[field.name] = field.default
    options = {}
    for name, value in config.options.items():
        # an unknown option is for `method` to refuse
        if name not in defaults or value != defaults[name]:
            options[name] = value
    return replace(config, options=options)


@checked
def from_spec(spec: str, template: Callable[[], Iterable[int]] = tuple, **options: Any) -> Pruner:
    """Make a pruner as lists of methods write it: `from_spec("adafv:reserve=0.5", keep=0.1)`.

    Args:
        spec: see `adafv.core.config.PruneConfig.from_spec`.
        template: see `from_config`.
        options: of the method, beside those of the spec; None: not given.

    Raises:
        ValueError: see `from_config`; an option without a value.
    """
    given = {}
    for option, value in options.items():
        if value is not None:
            given[option] = value
    return from_config(PruneConfig.from_spec(spec), template, **given)
