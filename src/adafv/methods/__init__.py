"""The methods by name. A new one is a file here and its class in `METHODS`."""

import difflib
from typing import Any

from adafv.methods.adafv import AdaFV
from adafv.methods.adafv_released import AdaFVReleased
from adafv.methods.fastervlm import FasterVLM
from adafv.methods.none import NoPruning
from adafv.methods.pool import Pool
from adafv.methods.random import Random
from adafv.methods.t2i import TextToImage
from adafv.methods.uniform import Uniform
from adafv.pruner import Pruner

__all__ = [
    "METHODS",
    "AdaFV",
    "AdaFVReleased",
    "FasterVLM",
    "NoPruning",
    "Pool",
    "Random",
    "TextToImage",
    "Uniform",
    "method",
]

METHODS: dict[str, type[Pruner]] = {
    cls.name: cls for cls in (AdaFV, AdaFVReleased, FasterVLM, TextToImage, Random, Uniform, Pool, NoPruning)
}


def method(name: str, **options: Any) -> Pruner:
    """A pruner by its name: `method("adafv", keep=0.1)`.

    Raises:
        ValueError: an unknown name (the closest one is suggested), or options the method refuses.
    """
    if cls := METHODS.get(name):
        return cls(**options)
    close = difflib.get_close_matches(name, METHODS, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(METHODS)}"
    raise ValueError(f"method {name!r} is unknown: {hint}")
