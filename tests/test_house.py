"""Protects the house: no circle of imports, arrows that point down, code with room to breathe."""

import ast

from tests.house import between_rooms, circle, density, imports, modules, room

LIGHT = {"utils", "ops", "_moved"}
"""Rooms that stand on nothing but each other and PyTorch."""
BASEMENT = (*LIGHT, "core", "families", "methods")
"""What every call runs through; nothing above is imported by it."""
DOCUMENTED = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
OURS = {
    *("picture", "clips", "stay", "Stay", "droppable", "planes", "door"),
    *("films", "attends", "Reading", "news", "echoes", "distinctness"),
    *("Choice", "Ticket", "Asked", "Outcome", "Offline", "Cluster", "Skeleton", "apart"),
    *("Parting", "parting", "fewest", "peers", "ceilings", "TWIN", "Cell", "Desk", "Sight"),
    *("Sheet", "sheet"),
}
"""Names that the field has better words for."""
ABOVE = {
    "analysis",
    "app",
    "batch",
    "cli",
    "data",
    "demo",
    "evaluation",
    "integrations",
    "speed",
    "tuning",
    "viz",
}


def test_no_circle_of_imports():
    assert circle(imports()) == []


def test_arrows_point_down():
    """Nothing below imports from above, not even when a function runs."""
    for upper, lower in between_rooms(imports(lazy=True)):
        assert not (upper in LIGHT and lower not in LIGHT), (upper, lower)
        assert not (upper in BASEMENT and lower in ABOVE), (upper, lower)
        assert lower != "cli" or upper == "__main__", (upper, lower)


def test_methods_know_no_family():
    assert ("methods", "families") not in between_rooms(imports(lazy=True))


def test_families_know_of_the_core_the_prompt_alone():
    graph = imports(lazy=True)
    for module, below in graph.items():
        if "." in module and room(module) == "families":
            assert {m for m in below if room(m) == "core"} <= {"adafv.core.prompt"}, module


def test_room_to_breathe():
    """Lines end at 100 characters; comprehensions are few, nested ones fewer; comments say why."""
    written = density()
    assert written.wide == 0
    assert written.per_thousand(written.nested) <= 1
    assert written.per_thousand(written.comprehensions) <= 25
    assert written.per_thousand(written.comments) >= 60


def test_docstrings_begin_with_a_verb_and_not_with_a_question():
    """Ruff asks for the imperative; these it takes for verbs or nouns."""
    asking = ("What", "Where", "Whether", "Which", "How", "Who")
    for name, path in modules().items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, DOCUMENTED) and not node.name.startswith("_"):
                words = (ast.get_docstring(node) or "").split()
                assert not words or words[0] not in asking, f"{name}.{node.name}"


def test_names_are_the_fields():
    """No name of our own for what the field has a word for."""
    for module, path in modules().items():
        names = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Name):
                names.add(node.id)
            elif isinstance(node, ast.Attribute):
                names.add(node.attr)
            elif isinstance(node, ast.arg):
                names.add(node.arg)
            elif isinstance(node, DOCUMENTED):
                names.add(node.name)
        assert not names & OURS, f"{module}: {', '.join(names & OURS)}"
