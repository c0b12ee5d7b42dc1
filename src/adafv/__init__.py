"""Training-free pruning of visual tokens: AdaFV and its rivals, on stock Hugging Face models."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from adafv.encoding import Encoding as Encoding
    from adafv.encoding import VisualTokens as VisualTokens
    from adafv.methods import *  # noqa: F403 (every method, as listed there)
    from adafv.pruner import Pruner as Pruner
    from adafv.pruner import ScoringPruner as ScoringPruner
    from adafv.pruner import Selection as Selection
    from adafv.saved import from_pretrained as from_pretrained

__version__ = "0.1.0"

_HOMES = {
    "Encoding": "encoding",
    "VisualTokens": "encoding",
    "Pruner": "pruner",
    "ScoringPruner": "pruner",
    "Selection": "pruner",
    "from_pretrained": "saved",
}


def __getattr__(name: str) -> Any:
    """The core and every method, imported on first use: `adafv --help` needs neither torch nor transformers."""
    if name.startswith("_"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"adafv.{_HOMES.get(name, 'methods')}"), name)
