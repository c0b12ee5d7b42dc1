"""What there is: methods, families.

Read from the source as text, for importing either takes PyTorch and seconds.
"""

import ast
import json
from importlib.resources import files
from typing import Annotated, Any

import typer

from adafv.cli.options import Json, print_json, print_table, say

__all__ = ["families", "listed_methods", "methods"]

PROVEN = {
    "identity": ("identity", "keep=1 changes no logit and no generated token"),
    "budget": ("budgets", "every image keeps exactly its budget, and no word is lost"),
    "batch": ("batches", "a batch gives what its prompts give one by one"),
    "images": ("several images", "several images in a prompt keep a budget each"),
    "cache": ("cache", "decoding goes on from the cache at the right position"),
    "methods": ("methods", "every method that chooses before the language model works"),
    "hidden": ("masking", "dropping tokens gives what hiding them from the whole prompt gives"),
    "layout": ("places", "tokens are made of the patches where they are drawn"),
    "inside": (
        "layers",
        "methods that prune between the layers of the language model work, or say why not",
    ),
    "m-rope": ("M-RoPE", "kept tokens have the rows and columns of the whole prompt"),
}
"""What the tests of a kind prove: as a word for a table, and in words."""


def methods(
    model: Annotated[str | None, typer.Option("--model", hidden=True)] = None,
    device: Annotated[str | None, typer.Option("--device", hidden=True)] = None,
    dtype: Annotated[str | None, typer.Option("--dtype", hidden=True)] = None,
    as_json: Json = False,
) -> None:
    """List the methods, each with its paper."""
    known = listed_methods()
    if as_json:
        print_json({"methods": known})
        return
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for name in ("method", "what it does", "paper"):
        table.add_column(name, no_wrap=name != "what it does")
    for entry in known:
        table.add_row(entry["name"], entry["summary"], entry["paper"])
    print_table(table, drop=("paper",))


def families(
    model: Annotated[str | None, typer.Option("--model", hidden=True)] = None,
    device: Annotated[str | None, typer.Option("--device", hidden=True)] = None,
    dtype: Annotated[str | None, typer.Option("--dtype", hidden=True)] = None,
    as_json: Json = False,
) -> None:
    """List the model families that the test matrix covers, with what it proved of each."""
    found = json.loads(
        files("adafv").joinpath("families", "proven.json").read_text(encoding="utf-8")
    )
    reasons = _module("families", "others.py")
    unproven, impossible = _literal(reasons, "UNPROVEN"), _literal(reasons, "IMPOSSIBLE")
    checks = dict.fromkeys(
        check for family in found["families"].values() for check in family["passed"]
    )
    meaning = {check: PROVEN.get(check, (check, check)) for check in checks}
    if as_json:
        print_json(
            {
                **found,
                "meaning": {c: words for c, (_, words) in meaning.items()},
                "unproven": unproven,
                "impossible": impossible,
            }
        )
        return
    from rich.table import Table

    proven = {
        name: [c for c in checks if family["passed"].get(c)]
        for name, family in found["families"].items()
    }
    everywhere = [check for check in checks if all(check in own for own in proven.values())]
    table = Table(box=None, pad_edge=False)
    for name in ("family", "saliency", "proven besides", "model"):
        table.add_column(name, no_wrap=name != "proven besides")
    for name, family in found["families"].items():
        besides = [meaning[check][0] for check in proven[name] if check not in everywhere]
        table.add_row(name, family["saliency"], ", ".join(besides) or "–", family["model"])
    print_table(table, drop=("model", "saliency"))
    whole = (
        f"Proven of all {len(proven)} families, with tiny models of the real classes "
        f"(transformers {found['transformers']})"
    )
    besides = [check for check in checks if check not in everywhere]
    for title, some in ((whole, everywhere), ("Proven besides, where the table says so", besides)):
        say(f"\n{title}:")
        for check in some:
            say(f"  {meaning[check][0]}: {meaning[check][1]}", indent=4)
    for title, why in (("Not proven, with a warning", unproven), ("Refused", impossible)):
        say(f"\n{title}:")
        for name, reason in why.items():
            say(f"  {name}: {reason}", indent=4)


def listed_methods() -> list[dict[str, str]]:
    """Return name, paper and summary of every class in `adafv.methods.CLASSES`, in its order."""
    registry = _module("methods", "__init__.py")
    homes = {
        alias.asname or alias.name: (node.module or "").rpartition(".")[2]
        for node in registry.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    classes = next(
        node.value
        for node in registry.body
        if isinstance(node, ast.AnnAssign)
        and isinstance(node.target, ast.Name)
        and node.target.id == "CLASSES"
    )
    assert isinstance(classes, ast.Tuple)
    return [_method(name.id, homes[name.id]) for name in classes.elts if isinstance(name, ast.Name)]


def _method(name: str, module: str) -> dict[str, str]:
    classes = {
        node.name: node
        for node in _module("methods", f"{module}.py").body
        if isinstance(node, ast.ClassDef)
    }
    summary = (ast.get_docstring(classes[name]) or "").splitlines()[0]
    return {
        "name": _attribute(classes, name, "name"),
        "paper": _attribute(classes, name, "paper"),
        "summary": summary,
    }


def _attribute(classes: dict[str, ast.ClassDef], name: str, attribute: str) -> str:
    """A class's own attribute, or that of the class in the same file that it comes from."""
    for node in classes[name].body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == attribute:
            return ast.literal_eval(node.value)
    bases = [
        base.id for base in classes[name].bases if isinstance(base, ast.Name) and base.id in classes
    ]
    return _attribute(classes, bases[0], attribute) if bases else ""


def _literal(module: ast.Module, name: str) -> Any:
    """The value of a constant of a module, in which names of other constants may stand."""
    constants: dict[str, ast.expr] = {}
    for node in module.body:
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        if (
            isinstance(node, ast.Assign | ast.AnnAssign)
            and isinstance(target, ast.Name)
            and node.value
        ):
            constants[target.id] = _Named(constants).visit(node.value)
    return ast.literal_eval(constants[name])


class _Named(ast.NodeTransformer):
    """Puts in place of a name what it stands for."""

    def __init__(self, constants: dict[str, ast.expr]) -> None:
        self.constants = constants

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return self.constants.get(node.id, node)


def _module(*path: str) -> ast.Module:
    return ast.parse(files("adafv").joinpath(*path).read_text(encoding="utf-8"))
