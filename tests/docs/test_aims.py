"""What `adafv+` was to reach: tables count what the committed comparisons say, and hide none."""

import csv
from pathlib import Path

import aims
import low

ROOT = Path(__file__).parents[2]


def test_every_comparison_of_the_measurements_is_counted():
    """None is left out but those with the oracle and with methods between the layers."""
    expected = {}
    for measured in aims.MEASURED:
        path = ROOT / "benchmarks" / measured / "pairs.csv"
        with path.open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                rival = row["rival"]
                if row["method"] == "adafv+" and rival not in (
                    *("oracle", "fastv", "sparsevlm", "pdrop"),
                ):
                    key = measured, row["suite"], float(row["keep"]), rival
                    expected[key] = float(row["difference"])
    found = {}
    for cell in aims.cells():
        for pair in cell.pairs:
            key = cell.measured, cell.suite, cell.keep, pair["rival"]
            found[key] = pair["difference"]
    assert found == expected
    assert aims.resolution().startswith(f"One correction for all {len(expected)} comparisons")


def test_ahead_means_ahead_of_every_rival():
    """A cell counts only if the test tells `adafv+` from each rival, not from the nearest alone."""
    for cell in aims.cells():
        if cell.ahead < 1:
            assert all(pair["difference"] > 0 for pair in cell.pairs)
            assert all(pair["p"] <= cell.ahead for pair in cell.pairs)
        assert all(pair["difference"] >= cell.nearest["difference"] for pair in cell.pairs)
        assert len(cell.above) == sum(pair["difference"] < 0 for pair in cell.pairs)


def test_types_of_questions_add_up():
    """What the oracle has more is the sum over the types of a suite."""
    lines = [line.strip("| ").split(" | ") for line in aims.of_types().splitlines()[2:]]
    for cell in [line[0] for line in lines]:
        [whole] = [line for line in lines if line[0] == cell and line[1] == "**all**"]
        types = [line for line in lines if line[0] == cell and line[1] != "**all**"]
        for column in (2, 4, 6, 7):
            assert not types or int(whole[column]) == sum(int(line[column]) for line in types)


def test_aims_that_are_not_reached_are_said_to_be(monkeypatch):
    """The page on accuracy names their number, and a rival that is ahead turns a yes into a no."""
    page = (ROOT / "docs" / "accuracy.md").read_text(encoding="utf-8")
    assert aims.aims().count("| **no**") == 2
    assert "two of its four aims are not reached" in page
    cells = list(aims.cells())
    worse = {"rival": "scope", "difference": -0.2, "p": 0.00025, "suite": "scenes", "keep": 0.05}
    cells.append(aims.Cell("fresh", "scenes", 0.05, [worse]))
    monkeypatch.setattr(aims, "cells", lambda: tuple(cells))
    assert aims.aims().count("| **no**") == 3


def test_a_comparison_below_five_percent_is_bold_where_it_holds_corrected():
    """As many as the page says, by Holm's own rule."""
    pairs = low._pairs()
    ranked = sorted(pair["p"] for pair in pairs.values())
    count = 0
    while count < len(ranked) and ranked[count] * (len(ranked) - count) < low.BELOW:
        count += 1
    assert len(low._beyond_luck(pairs)) == count
