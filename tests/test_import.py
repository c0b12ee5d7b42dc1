"""Protects whoever imports the package and may never need a model: PyTorch takes seconds."""

import json
import subprocess
import sys

import adafv
from adafv import methods

HEAVY = {"torch", "transformers", "numpy", "PIL", "huggingface_hub", "typer", "rich", "pydantic"}
"""Packages that a name below `adafv` imports when it is first asked for."""
NETWORK = {"http.client", "ssl", "urllib.request"}
"""Parts of Python that only a hub needs."""
LOADED = "; import json, sys; print(json.dumps(sorted(sys.modules)))"


def loaded_by(code: str) -> set[str]:
    """The modules that a new interpreter holds after some code."""
    command = [sys.executable, "-c", code + LOADED]
    return {*json.loads(subprocess.run(command, capture_output=True, check=True).stdout)}


def test_the_package_imports_nothing_heavy():
    """Nor does listing what it has."""
    loaded = loaded_by("import adafv; assert 'AdaFV' in dir(adafv) and adafv.__version__")
    assert not loaded & (HEAVY | NETWORK)
    assert {name for name in loaded if name.startswith("adafv")} == {"adafv", "adafv._moved"}


def test_the_command_line_imports_what_it_prints_with():
    """Before a command runs: every command imports the rest itself."""
    loaded = loaded_by("import adafv.cli")
    assert not loaded & (HEAVY - {"typer", "rich", "pydantic"} | NETWORK)


def test_all_names_are_listed_and_are_there():
    """`dir`, as shells complete from it."""
    assert {"AdaFV", "Pruner", "ask", "explain", "load", "method"} <= {*dir(adafv)}
    assert {*dir(adafv)} >= {*methods.__all__}
    for name in dir(adafv):
        assert getattr(adafv, name) is not None
