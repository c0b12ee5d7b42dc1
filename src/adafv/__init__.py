"""Training-free pruning of visual tokens: AdaFV and its rivals, on stock Hugging Face models."""

from adafv.encode import Encoding, VisualTokens, encode
from adafv.methods import (
    METHODS,
    AdaFV,
    AdaFVReleased,
    FasterVLM,
    NoPruning,
    Pool,
    Random,
    TextToImage,
    Uniform,
    method,
)
from adafv.pruner import Pruner, Selection

__version__ = "0.1.0"
__all__ = [
    "METHODS",
    "AdaFV",
    "AdaFVReleased",
    "Encoding",
    "FasterVLM",
    "NoPruning",
    "Pool",
    "Pruner",
    "Random",
    "Selection",
    "TextToImage",
    "Uniform",
    "VisualTokens",
    "encode",
    "method",
]
