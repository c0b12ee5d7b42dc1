"""The package as a house: which module imports which, and how densely it is written.

`python -m tests.house` prints both.
"""

import ast
import io
import re
import tokenize
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[1] / "src"
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
WIDTH = 100

Graph = dict[str, set[str]]


@dataclass(frozen=True)
class Density:
    """How densely Python is written.

    Attributes:
        lines: of all files.
        comprehensions, nested, comments: how many there are of each.
        wide: lines of more than `WIDTH` characters.
    """

    lines: int
    comprehensions: int
    nested: int
    comments: int
    wide: int

    def per_thousand(self, count: int) -> float:
        """Return a count in proportion to 1,000 lines."""
        return 1000 * count / self.lines


def modules(source: Path = SOURCE) -> dict[str, Path]:
    """Return the modules below a folder by their dotted names."""
    found = {}
    for path in sorted(source.rglob("*.py")):
        name = ".".join(path.relative_to(source).with_suffix("").parts)
        found[name.removesuffix(".__init__")] = path
    return found


def imports(source: Path = SOURCE, *, lazy: bool = False) -> Graph:
    """Return which modules of the package each one imports.

    Args:
        lazy: count those too that are imported inside a function, when it runs.
    """
    known = modules(source)
    return {name: set(_imported(name, path, known, lazy)) for name, path in known.items()}


def _imported(name: str, path: Path, known: dict[str, Path], lazy: bool) -> Iterator[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in _statements(tree, lazy):
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        else:
            assert node.module is not None
            targets = [_target(node.module, alias.name, known) for alias in node.names]
        for target in targets:
            if target in known and target != name and "." in target:
                yield target


def _target(module: str, name: str, known: dict[str, Path]) -> str:
    """Return what `from module import name` imports: a module, or the module that has the name."""
    return f"{module}.{name}" if f"{module}.{name}" in known else module


def _statements(tree: ast.AST, lazy: bool) -> Iterator[ast.Import | ast.ImportFrom]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        elif lazy or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _statements(node, lazy)


def circle(graph: Graph) -> list[str]:
    """Return the modules of a circle of imports, empty if there is none."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def floors(graph: Graph) -> int:
    """Return how many modules stand on each other at most; the graph must have no circle."""
    height: dict[str, int] = {}
    for module in TopologicalSorter(graph).static_order():
        height[module] = 1 + max((height[below] for below in graph[module]), default=0)
    return max(height.values())


def room(module: str) -> str:
    """Return the folder of a module in the package; files at the root are rooms of their own."""
    return module.split(".")[1]


def between_rooms(graph: Graph) -> set[tuple[str, str]]:
    """Return which room imports from which."""
    arrows = set()
    for module, below in graph.items():
        for other in below:
            if "." in module and room(module) != room(other):
                arrows.add((room(module), room(other)))
    return arrows


def density(source: Path = SOURCE) -> Density:
    """Return how densely the Python below a folder is written."""
    totals: dict[str, int] = defaultdict(int)
    for path in modules(source).values():
        text = path.read_text(encoding="utf-8")
        totals["lines"] += text.count("\n")
        totals["wide"] += sum(len(line) > WIDTH for line in text.splitlines())
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            totals["comments"] += token.type == tokenize.COMMENT and not _for_a_tool(token.string)
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, COMPREHENSIONS):
                totals["comprehensions"] += 1
                totals["nested"] += _holds_another(node)
    return Density(**totals)


def _for_a_tool(comment: str) -> bool:
    return re.match(r"# (type:|noqa|fmt:|pragma)", comment) is not None


def _holds_another(comprehension: ast.AST) -> bool:
    inside = ast.walk(comprehension)
    return any(isinstance(node, COMPREHENSIONS) for node in inside if node is not comprehension)


def main() -> None:
    """Print the rooms, what each imports, circles, floors and densities."""
    graph = imports()
    arrows = between_rooms(imports(lazy=True))
    below: dict[str, list[str]] = defaultdict(list)
    for upper, lower in sorted(arrows):
        below[upper].append(lower)
    for name in sorted({room(module) for module in graph if "." in module}):
        print(f"{name}: {', '.join(below[name]) or 'nothing'}")
    print(f"\n{len(graph)} modules, {sum(map(len, graph.values()))} imports between them, ", end="")
    print(f"{len(arrows)} arrows between rooms, lazy ones included")
    print(
        f"circle: {' → '.join(found)}"
        if (found := circle(graph))
        else f"no circle, {floors(graph)} floors"
    )
    written = density()
    print(
        f"{written.lines} lines, {written.wide} of them over {WIDTH} characters; per 1,000 lines: ",
        end="",
    )
    counts = ("comprehensions", "nested", "comments")
    print(
        ", ".join(f"{written.per_thousand(getattr(written, name)):.1f} {name}" for name in counts)
    )


if __name__ == "__main__":
    main()
