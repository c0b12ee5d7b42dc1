"""Training-free pruning of visual tokens: AdaFV and its rivals, on stock Hugging Face models."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from adafv.encode import Encoding, VisualTokens
    from adafv.methods import (
        DART,
        METHODS,
        AdaFV,
        AdaFVReleased,
        CDPruner,
        DivPrune,
        FasterVLM,
        FastV,
        HiPrune,
        HiRED,
        MMTok,
        NoPruning,
        Pool,
        PruMerge,
        PruMergePlus,
        PyramidDrop,
        Random,
        Scope,
        SparseVLM,
        TextToImage,
        ToMe,
        Uniform,
        VisionZip,
        VisPruner,
        method,
    )
    from adafv.pruner import Pruner, ScoringPruner, Selection

__version__ = "0.1.0"
__all__ = [
    "DART",
    "METHODS",
    "AdaFV",
    "AdaFVReleased",
    "CDPruner",
    "DivPrune",
    "Encoding",
    "FastV",
    "FasterVLM",
    "HiPrune",
    "HiRED",
    "MMTok",
    "NoPruning",
    "Pool",
    "PruMerge",
    "PruMergePlus",
    "Pruner",
    "PyramidDrop",
    "Random",
    "Scope",
    "ScoringPruner",
    "Selection",
    "SparseVLM",
    "TextToImage",
    "ToMe",
    "Uniform",
    "VisPruner",
    "VisionZip",
    "VisualTokens",
    "method",
]

_HOMES = {
    "Encoding": "encode",
    "VisualTokens": "encode",
    "Pruner": "pruner",
    "ScoringPruner": "pruner",
    "Selection": "pruner",
}


def __getattr__(name: str) -> Any:
    """Import torch and transformers on first use: `adafv --help` needs neither."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"adafv.{_HOMES.get(name, 'methods')}"), name)
