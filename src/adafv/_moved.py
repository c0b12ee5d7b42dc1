"""Old import paths: for one release they answer with a DeprecationWarning."""

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any
from warnings import warn

__all__ = ["MOVED", "answer_for"]

# An old module's first new home has the function that was named like the module.
MOVED: dict[str, tuple[str, ...]] = {
    "ask": ("models.ask", "models.prompting", "models.generation", "utils.clock"),
    "capture": ("core.capture", "core.signals", "families.base"),
    "compiled": ("models.compiled",),
    "encode": ("core.encode",),
    "encoding": ("core.visual_tokens",),
    "evaluation.sample": ("data.sample",),
    "evaluation.scenes": ("data.scenes",),
    "evaluation.suites": ("data.suites",),
    "greedy": ("methods._greedy", "ops.coverage"),
    "images": ("models.images",),
    "inside": ("core.layerwise",),
    "load": ("models.load",),
    "mixture": ("ops.sacmam",),
    "pruner": ("core.pruner", "core.nested"),
    "saved": ("models.saved",),
    "scores": ("ops.relevance", "ops.saliency", "ops.cosine", "ops.precision"),
    "serving.vllm": ("integrations.vllm",),
    "layout": ("core.prompt",),
    "rebuild": ("core.rebuild",),
    "selection": ("core.selection",),
    "text": ("models.boilerplate",),
    "turns": ("core.turns", "core.chat_template"),
    "viz.collect": ("viz.explained_answer",),
}
"""Modules that users imported, and where what they held is now; all names below `adafv`."""
FOLDERS = ("serving",)
"""Packages that are gone and that an old path still goes through."""


class _Moved(ModuleType):
    """A module at its old path: looks its names up where they are now.

    Where a function of the package now has the module's old name, the module can be called as the
    function: `adafv.load(...)` works as well as `adafv.load.load(...)`.
    """

    def __getattr__(self, name: str) -> Any:
        # Python asks modules for `__path__` and the like; importing for those would be in vain
        if name.startswith("__"):
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        old = self.__name__.removeprefix("adafv.")
        homes = [import_module(f"adafv.{new}") for new in MOVED.get(old, ())]
        # a home of its own goes before one that only imports the name
        homes.sort(key=lambda home: name not in getattr(home, "__all__", ()))
        for home in homes:
            if hasattr(home, name):
                message = f"{self.__name__}.{name} has moved: import it from {home.__name__}"
                warn(message, DeprecationWarning, stacklevel=2)
                return getattr(home, name)
        raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        old = self.__name__.removeprefix("adafv.")
        function = getattr(import_module(f"adafv.{MOVED[old][0]}"), old)
        return function(*args, **kwargs)


class _Finder:
    """Finds modules at their old paths, once nothing else does, and loads them.

    It needs no base class of `importlib.abc`, which takes longer to import than all else here.
    """

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return how a moved module is loaded, None for every other."""
        old = name.removeprefix("adafv.")
        if old == name or old not in (*MOVED, *FOLDERS):
            return None
        loader: Any = self  # by its methods; typeshed asks for one that Python calls no more
        return ModuleSpec(name, loader, is_package=old in FOLDERS)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Return a module that answers for the one that has moved."""
        return _Moved(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Do nothing: names are looked up when they are asked for."""


def answer_for() -> None:
    """Make old import paths answer, in this process."""
    # last, so that modules that exist are found first
    sys.meta_path.append(_Finder())
