"""Protects who imports from old paths: they answer for one release, with a warning."""

import importlib
import sys

import pytest
from processes import fork

import adafv
from adafv._moved import MOVED


@pytest.mark.parametrize("old", MOVED)
def test_an_old_path_has_what_its_new_homes_have(old):
    module = importlib.import_module(f"adafv.{old}")
    for new in MOVED[old]:
        home = importlib.import_module(f"adafv.{new}")
        for name in getattr(home, "__all__", ()):
            with pytest.warns(DeprecationWarning, match=rf"import it from adafv\.{new}"):
                assert getattr(module, name) is getattr(home, name)


@pytest.mark.parametrize("code", ["from adafv.load import load", "import adafv.load"])
def test_the_function_survives_an_import_of_the_module_that_had_its_name(code):
    """`adafv.load(…)` and `adafv.load.load(…)`, in either order."""
    then = "import adafv; assert callable(adafv.load); adafv.load.__name__, adafv.ask.__name__"
    process = fork(imported_anew, f"{code}; {then}")
    process.join()
    assert process.exitcode == 0


def imported_anew(code: str) -> None:
    """Run code in a process that knows nothing of the package."""
    for name in list(sys.modules):
        if name.split(".")[0] == "adafv":
            del sys.modules[name]
    exec(code, {})


def test_what_never_was_is_an_import_error():
    with pytest.raises(ImportError):
        importlib.import_module("adafv.nonsense")
    with pytest.raises(AttributeError):
        _ = adafv.nonsense
