"""The methods by name. A new one is a file here and its class in `CLASSES`."""

import difflib
from dataclasses import fields
from typing import Any

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
from adafv.pruner import Pruner

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


def method(name: str, **options: Any) -> Pruner:
    """A pruner by its name: `method("adafv", keep=0.1)`.

    Raises:
        ValueError: an unknown name (the closest one is suggested), or options the method refuses.
    """
    if cls := METHODS.get(name):
        known = [field.name for field in fields(cls)]
        if unknown := [option for option in options if option not in known]:
            given = f"{unknown[0]}={options[unknown[0]]!r}"
            raise ValueError(f"{given} is no option of {name}: it takes {', '.join(known)}")
        return cls(**options)
    close = difflib.get_close_matches(name, METHODS, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(METHODS)}"
    raise ValueError(f"method {name!r} is unknown: {hint}")
