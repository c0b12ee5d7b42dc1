"""Training-free pruning of visual tokens: AdaFV and its rivals, on stock Hugging Face models."""

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from adafv._moved import answer_for

if TYPE_CHECKING:
    from adafv.core.nested import NestedPruner as NestedPruner
    from adafv.core.nested import ScoringPruner as ScoringPruner
    from adafv.core.pruner import Pruner as Pruner
    from adafv.core.selection import Selection as Selection
    from adafv.core.tower_cache import TowerCache as TowerCache
    from adafv.core.visual_tokens import Encoding as Encoding
    from adafv.core.visual_tokens import VisualTokens as VisualTokens
    from adafv.methods import *  # noqa: F403 (every method, as listed there)
    from adafv.models.ask import ask as ask
    from adafv.models.boilerplate import boilerplate as boilerplate
    from adafv.models.load import load as load
    from adafv.models.saved import from_pretrained as from_pretrained
    from adafv.models.saved import save_pretrained as save_pretrained
    from adafv.viz import explain as explain

__version__ = "0.1.0"

# Where public names live that are not methods, below `adafv`.

_HOMES = {
    "Encoding": "core.visual_tokens",
    "NestedPruner": "core.nested",
    "Pruner": "core.pruner",
    "ScoringPruner": "core.nested",
    "Selection": "core.selection",
    "TowerCache": "core.tower_cache",
    "VisualTokens": "core.visual_tokens",
    "ask": "models.ask",
    "boilerplate": "models.boilerplate",
    "explain": "viz",
    "from_pretrained": "models.saved",
    "load": "models.load",
    "save_pretrained": "models.saved",
}

answer_for()


def __getattr__(name: str) -> Any:
    """Import the core, or a method, on first use: `adafv --help` needs no PyTorch."""
    # the import system asks for `__path__`, and for modules, which it imports itself then
    if name.startswith("_") or (name not in _HOMES and find_spec(f"adafv.{name}")):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"adafv.{_HOMES.get(name, 'methods')}"), name)


def __dir__() -> list[str]:
    """List all names; those of the methods come from the source, as importing them is slow."""
    import ast
    from pathlib import Path

    source = (Path(__file__).parent / "methods" / "__init__.py").read_text(encoding="utf-8")
    methods: list[str] = []
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            methods = ast.literal_eval(node.value)
    return sorted({*globals(), *_HOMES, *methods})
