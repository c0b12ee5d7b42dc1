"""Protects the house: no circle of imports, arrows that point down, code with room to breathe."""

from tests.house import between_rooms, circle, density, imports, room

LIGHT = {"utils", "ops", "_moved"}
"""Rooms that stand on nothing but each other and PyTorch."""
BASEMENT = (*LIGHT, "core", "families", "methods")
"""What every call runs through; nothing above is imported by it."""
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
