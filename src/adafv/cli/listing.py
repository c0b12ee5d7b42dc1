"""List methods and families: `adafv methods` and `adafv families`.

Both are read from the source as text, for importing either takes PyTorch and seconds.
"""

import ast
import json
from importlib.resources import files
from typing import Annotated, Any

import typer

from adafv.cli.options import Json, UnusedDevice, UnusedDtype, UnusedModel
from adafv.cli.printing import print_json, print_table, say
from adafv.integrations.vllm.architectures import ARCHITECTURES
from adafv.integrations.vllm.left_out_architectures import LEFT_OUT, NO_ANSWERS, SOUND, by_reason

__all__ = ["families", "listed_methods", "methods"]

# What the tests of a kind prove: as a word for a table, and in words.
PROVEN = {
    "identity": ("identity", "keep=1 changes no logit and no generated token"),
    "budget": ("budgets", "every image keeps exactly its budget, and no text token is lost"),
    "batch": ("batches", "a batch gives what its prompts give one by one"),
    "images": ("several images", "several images in a prompt keep a budget each"),
    "cache": ("cache", "decoding continues from the cache at the right position"),
    "methods": ("methods", "every method that chooses before the language model works"),
    "hidden": ("masking", "dropping tokens gives what hiding them in the dense prompt gives"),
    "layout": ("coordinates", "tokens are made of the patches where they are drawn"),
    "inside": (
        "layers",
        "methods that prune between the layers of the language model work, or say why not",
    ),
    "clips": ("videos", "a video keeps its budget over its frames, and keep=1 changes no logit"),
    "m-rope": ("M-RoPE", "kept tokens have the rows and columns of the dense prompt"),
}
PROVEN_SERVED = {
    "indices": ("indices", "what is kept of an image, and the answer, are the library's"),
    "batch": (
        "batches",
        "so they are with mixed budgets and methods at once, and once more from the caches",
    ),
    "identity": ("identity", "keep=1 gives stock vLLM's tokens and logprobs, bit for bit"),
    "images": ("several images", "several images in a prompt keep a budget each"),
    "chunks": (
        "chunks",
        "prompts are read in steps that end within images, or between them where vLLM reads an "
        "image whole",
    ),
    "prefix": ("prefix cache", "what stands in the prefix cache is read from it, images too"),
    "clips": ("videos", "all of this holds of videos, and of an image beside one"),
    "ranks": ("ranks", "two tensor-parallel ranks choose as one would"),
    "by rank": (
        "images by rank",
        "so do ranks that share out images (--mm-encoder-tp-mode data)",
    ),
}
"""The same of tests of an architecture on vLLM."""


def methods(
    model: UnusedModel = None,
    device: UnusedDevice = None,
    dtype: UnusedDtype = None,
    as_json: Json = False,
) -> None:
    """List the methods, each with its paper."""
    known = listed_methods()
    of_videos = listed_methods("VIDEO_CLASSES")
    if as_json:
        print_json({"methods": known, "video_methods": of_videos})
        return
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for name in ("method", "what it does", "paper"):
        table.add_column(name, no_wrap=name != "what it does")
    for entry in [*known, *of_videos]:
        table.add_row(entry["name"], entry["summary"], entry["paper"])
    print_table(table, drop=("paper",))
    names = ", ".join(entry["name"] for entry in of_videos)
    say(f"{names}: for videos alone, whose frames they compare")


def families(
    model: UnusedModel = None,
    device: UnusedDevice = None,
    dtype: UnusedDtype = None,
    engine: Annotated[
        str, typer.Option("--engine", metavar="E", help="hf (transformers) or vllm.")
    ] = "hf",
    as_json: Json = False,
) -> None:
    """List the model families that the test matrix covers, with what it proved of each."""
    if engine not in ("hf", "vllm"):
        raise ValueError(f"--engine {engine!r} is unknown: pass hf or vllm")
    found = json.loads(
        files("adafv").joinpath("families", "proven.json").read_text(encoding="utf-8")
    )
    if engine == "vllm":
        _list_served(found["families"], as_json)
        return
    # families that the matrix does not cover, with the reason
    reasons = _module("families", "unproven.py")
    unproven = _literal(reasons, "UNPROVEN")
    impossible = _literal(reasons, "IMPOSSIBLE")

    # all kinds of checks, in the order in which families have them
    checks: dict[str, tuple[str, str]] = {}
    for family in found["families"].values():
        for check in family["passed"]:
            checks[check] = PROVEN.get(check, (check, check))
    if as_json:
        meaning = {check: words for check, (_, words) in checks.items()}
        others = {"unproven": unproven, "impossible": impossible}
        print_json({**found, "meaning": meaning, **others})
        return
    from rich.table import Table

    passed = {name: family["passed"] for name, family in found["families"].items()}
    proven = _Proven(checks, passed)
    table = Table(box=None, pad_edge=False)
    for name in ("family", "saliency", "proven besides", "model"):
        table.add_column(name, no_wrap=name != "proven besides")
    for name, family in found["families"].items():
        table.add_row(name, family["saliency"], proven.besides_of(name), family["model"])
    print_table(table, drop=("model", "saliency"))
    proven.say(f"{len(passed)} families", f"transformers {found['transformers']}")
    _say_list("Not proven, with a warning", unproven)
    _say_list("Refused", impossible)


def _list_served(families: dict[str, Any], as_json: bool) -> None:
    """Print the architectures that are pruned on vLLM, with what the tests proved of each."""
    package = files("adafv.integrations").joinpath("vllm", "proven.json")
    found = json.loads(package.read_text(encoding="utf-8"))
    passed = found["architectures"]
    served = {}
    for name, architecture in ARCHITECTURES.items():
        served[name] = {
            "title": architecture.title,
            "family": architecture.family,
            "saliency": families[architecture.family]["saliency"],
            "clips": architecture.videos,
            "passed": passed[name],
        }
    if as_json:
        others = {"left_out": LEFT_OUT, "sound": sorted(SOUND), "no_answers": sorted(NO_ANSWERS)}
        meaning = {check: words for check, (_, words) in PROVEN_SERVED.items()}
        versions = {name: found[name] for name in ("vllm", "transformers")}
        print_json(
            {"engine": "vllm", **versions, "architectures": served, "meaning": meaning, **others}
        )
        return
    from rich.table import Table

    proven = _Proven(PROVEN_SERVED, passed)
    table = Table(box=None, pad_edge=False)
    for name in ("model", "saliency", "proven besides", "family", "architecture"):
        table.add_column(name, no_wrap=name != "proven besides")
    for name, entry in served.items():
        besides = proven.besides_of(name)
        table.add_row(entry["title"], entry["saliency"], besides, entry["family"], name)
    print_table(table, drop=("architecture", "family"))
    say(
        "\nServed and pruned with `adafv serve`; those that transformers has a class for also by "
        "`adafv batch --engine vllm`."
    )
    proven.say(str(len(passed)), f"vLLM {found['vllm']}, transformers {found['transformers']}")
    reasons = {", ".join(names): reason for reason, names in by_reason().items()}
    _say_list("Served whole by vLLM 0.32", reasons)
    _say_list(
        "Nothing to prune",
        {
            "what takes sound, and neither images nor videos": ", ".join(sorted(SOUND)),
            "what embeds, ranks or classifies, and writes no answer": ", ".join(sorted(NO_ANSWERS)),
        },
    )


class _Proven:
    """What tests have proven of several models: of all of them, and of some besides.

    Args:
        checks: kinds of tests, each as a word for a table and in words.
        passed: of each model the kinds that passed.
    """

    def __init__(
        self, checks: dict[str, tuple[str, str]], passed: dict[str, dict[str, int]]
    ) -> None:
        self.checks = checks
        self.passed = passed
        self.everywhere = [
            check for check in checks if all(check in own for own in passed.values())
        ]
        self.besides = [check for check in checks if check not in self.everywhere]

    def besides_of(self, name: str) -> str:
        """Return what is proven of a model and not of all, as words for a table."""
        own = [self.checks[check][0] for check in self.besides if check in self.passed[name]]
        return ", ".join(own) or "–"

    def say(self, models: str, versions: str) -> None:
        """Print what the words mean, under the table."""
        title = f"Proven of all {models}, with tiny models of the real classes ({versions})"
        _say_list(title, dict(self.checks[check] for check in self.everywhere))
        title = "Proven besides, where the table says so"
        _say_list(title, dict(self.checks[check] for check in self.besides))


def _say_list(title: str, entries: dict[str, str]) -> None:
    """Print names with what is to be said of each, under a title."""
    say(f"\n{title}:")
    for name, words in entries.items():
        say(f"  {name}: {words}", indent=4)


def listed_methods(listing: str = "CLASSES") -> list[dict[str, str]]:
    """Return name, paper and summary of every class in a tuple of `adafv.methods`, in its order."""
    registry = _module("methods", "__init__.py")
    # which file each class is imported from, and the tuple that lists them
    homes: dict[str, str] = {}
    listed: list[ast.expr] = []
    for node in registry.body:
        if isinstance(node, ast.ImportFrom):
            file = (node.module or "").rpartition(".")[2]
            for alias in node.names:
                homes[alias.asname or alias.name] = file
        elif isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == listing:
            assert isinstance(node.value, ast.Tuple)
            listed = node.value.elts
    return [_method(name.id, homes[name.id]) for name in listed if isinstance(name, ast.Name)]


def _method(name: str, module: str) -> dict[str, str]:
    """Return what is said of a method in its own file."""
    classes = {}
    for node in _module("methods", f"{module}.py").body:
        if isinstance(node, ast.ClassDef):
            classes[node.name] = node
    # the first line of the docstring
    summary = (ast.get_docstring(classes[name]) or "").splitlines()[0]
    return {
        "name": _attribute(classes, name, "name"),
        "paper": _attribute(classes, name, "paper"),
        "summary": summary,
    }


def _attribute(classes: dict[str, ast.ClassDef], name: str, attribute: str) -> str:
    """Return a class's own attribute, or that of its base class in the same file."""
    for node in classes[name].body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == attribute:
            return ast.literal_eval(node.value)
    for base in classes[name].bases:
        if isinstance(base, ast.Name) and base.id in classes:
            return _attribute(classes, base.id, attribute)
    return ""


def _literal(module: ast.Module, name: str) -> Any:
    """Return the value of a module's constant, in which other constants may stand by name."""
    constants: dict[str, ast.expr] = {}
    for node in module.body:
        if isinstance(node, ast.Assign):
            target = node.targets[0]
        elif isinstance(node, ast.AnnAssign):
            target = node.target
        else:
            continue
        if isinstance(target, ast.Name) and node.value is not None:
            # a constant may stand for others that come before it
            constants[target.id] = _Inlined(constants).visit(node.value)
    # no code runs
    return ast.literal_eval(constants[name])


class _Inlined(ast.NodeTransformer):
    """Names replaced by what they stand for."""

    def __init__(self, constants: dict[str, ast.expr]) -> None:
        self.constants = constants

    def visit_Name(self, node: ast.Name) -> ast.expr:
        """Return what a name stands for."""
        return self.constants.get(node.id, node)


def _module(*path: str) -> ast.Module:
    """Return a module of the package as its syntax tree."""
    return ast.parse(files("adafv").joinpath(*path).read_text(encoding="utf-8"))
