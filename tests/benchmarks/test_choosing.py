"""Protects the table of what choosing costs: every method is in it, as a multiple of ours."""

import importlib
import json
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks" / "speed"


@pytest.fixture
def choosing(monkeypatch):
    """The script, imported as when it runs."""
    monkeypatch.syspath_prepend(FOLDER)
    return importlib.import_module("choosing")


def test_every_method_is_timed(choosing, tmp_path):
    words = ["--tokens", "60", "--keep", "9", "--width", "16", "--repeats", "2", "--quiet"]
    choosing.main([*words, "--device", "cpu", "--out", str(tmp_path)])
    rows = json.loads((tmp_path / "results.json").read_text())["rows"]
    methods = {row["method"] for row in rows}
    assert methods == set(choosing.choosers())
    assert {"adafv", "adafv+", "scope", "mmtok", "cdpruner", "divprune", "visionzip"} <= methods
    assert not methods & {"fastv", "resize", "random"}
    [ours] = [row for row in rows if row["method"] == "adafv+"]
    assert ours["times_adafv_plus"] == 1
    assert [row["median_ms"] for row in rows] == sorted(row["median_ms"] for row in rows)
    assert "`scope`" in (tmp_path / "README.md").read_text()


def test_the_page_says_how_tokens_are_laid_out(choosing):
    """Of 2,880 methods that go by crops see five."""
    meta = dict.fromkeys(("command", "width", "keep", "dtype", "processor", "repeats"), "1")
    page = choosing.page({**meta, "tokens": 2880, "threads": 1}, [])
    assert "2,880 random visual tokens (a thumbnail and 2 × 2 tiles, as in LLaVA-NeXT)" in page
    page = choosing.page({**meta, "tokens": 600, "threads": 1}, [])
    assert "600 random visual tokens (one crop)" in page


def test_the_page_says_which_bars_hold(choosing):
    """At most 200 ms for a greedy method, and ours three times ahead of every rival."""
    times = {"fastervlm": [1.0], "adafv": [4.0], "adafv+": [6.0], "scope": [180.0]}
    times |= {"mmtok": [210.0, 210.0, 250.0]}
    meta = dict.fromkeys(("command", "dtype", "processor", "repeats"), "1")
    page = choosing.page({**meta, **choosing.ASKED}, choosing.rows_of(times))
    assert "Within: `scope` 180.0 ms (p95 180). Beyond: `mmtok` 210.0 ms (p95 246)." in page
    assert "it holds from `scope` on, 2 methods" in page
    assert "It does not hold against `fastervlm` (0.25, 0.17): in brackets" in page
    # bars were set for one size
    page = choosing.page({**meta, **choosing.ASKED, "tokens": 600}, choosing.rows_of(times))
    assert "Greedy methods" not in page
