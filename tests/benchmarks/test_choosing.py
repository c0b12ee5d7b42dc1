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
