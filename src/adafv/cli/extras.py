"""Say in one sentence which extra a missing package comes with."""

import importlib.util

from adafv.utils.checks import checked

__all__ = ["EXTRAS", "need", "sentence"]

# Packages that some commands need, and the extra that installs each. A plain installation has the
# first five; one without dependencies (pip install --no-deps) may lack them.
EXTRAS = {
    "rich": "cli",
    "tqdm": "cli",
    "typer": "cli",
    "matplotlib": "viz",
    "easy_vqa": "eval",
    "sklearn": "bench",
    "gradio": "ui",
    "vllm": "vllm",
}
# What people call a package whose module has another name.
CALLED = {"easy_vqa": "easy-vqa", "sklearn": "scikit-learn", "gradio": "Gradio", "vllm": "vLLM"}

OWN_ENVIRONMENT = (
    ", in an environment of its own, since vLLM pins PyTorch and transformers; for a CPU see "
    "docs/vllm-quickstart.md"
)


@checked
def need(module: str) -> None:
    """Raise a `ModuleNotFoundError` for a missing package before anything heavy is imported."""
    if importlib.util.find_spec(module) is None:
        raise ModuleNotFoundError(f"No module named {module!r}", name=module)


@checked
def sentence(error: ModuleNotFoundError, what: str) -> str | None:
    """Return what to do about a package that could not be imported.

    Args:
        error: as Python raised it.
        what: needs the package, e.g. a command.

    Returns:
        None: no extra has it, so the error is another one.
    """
    # matplotlib.figure is missing where matplotlib is
    module = (error.name or "").partition(".")[0]
    if module not in EXTRAS:
        return None
    said = f"{what} needs {CALLED.get(module, module)}: pip install 'adafv[{EXTRAS[module]}]'"
    return said + (OWN_ENVIRONMENT if module == "vllm" else "")
