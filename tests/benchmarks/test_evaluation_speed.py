"""Protects: the stages of `benchmarks/evaluation/measure.py` share out the time of an evaluation,
and its page says what its rounds hold.
"""

import importlib
import importlib.util
import json
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "evaluation" / "measure.py"


@pytest.fixture
def measure():
    # other benchmarks have a script of this name, too
    spec = importlib.util.spec_from_file_location("evaluation_speed", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def imported(monkeypatch, name):
    """A script, imported as when it runs."""
    monkeypatch.syspath_prepend(SCRIPT.parent)
    for module in ("measure", name):
        monkeypatch.delitem(sys.modules, module, raising=False)
    yield importlib.import_module(name)
    sys.modules.pop("measure", None)


@pytest.fixture
def where(monkeypatch):
    yield from imported(monkeypatch, "where")


@pytest.fixture
def throughput(monkeypatch):
    for script in imported(monkeypatch, "throughput"):
        script.measure = sys.modules["measure"]
        yield script


def test_answering_is_taken_to_pieces(where, tmp_path):
    """The pieces are less than the whole; a shared prefix reads what each prompt would."""
    where.main(["--limit", "3", "--rounds", "1", "--out", str(tmp_path)])
    found = json.loads((tmp_path / "where.json").read_text())
    pieces = [found[name] for name in ("prefill", "decode", "around", "generate", "choose")]
    assert all(seconds > 0 for seconds in pieces)
    assert sum(pieces) + found["tower"] < found["seconds"]
    assert [case["keep"] for case in found["shared"]] == [1.0, 1.0, 0.05, 0.05]
    dense, few = found["shared"][0], found["shared"][2]
    assert dense["prefix"] > few["prefix"]
    assert dense["rest"] == few["rest"]


def test_ways_are_compared(throughput, monkeypatch, tmp_path):
    """A row of the page for each. Here one process answers for two: those of `Workers` have tests
    of their own.
    """
    monkeypatch.setattr(throughput, "Workers", lambda *_: nullcontext())
    throughput.main(["--limit", "2", "--rounds", "1", "--processes", "2", "--out", str(tmp_path)])
    found = json.loads((tmp_path / "throughput.json").read_text())
    ways = [(way["processes"], way["dtype"]) for way in found["ways"]]
    assert ways == [(1, "float32"), (2, "float32"), (1, "bfloat16"), (2, "bfloat16")]
    assert all(way["answers_per_second"]["median"] > 0 for way in found["ways"])
    assert found["by_processes"]["differing"] == 0
    assert found["by_dtype"]["answers"] == found["by_processes"]["answers"] == 2 * (2 + 3 * 3)
    page = "\n".join(throughput.measure._side_by_side(found))
    assert "| 2 | bfloat16 |" in page


def test_the_page_says_whether_the_bar_holds(measure):
    """Three times 148,000 answers in 65 minutes are 114 a second."""
    rows = [{"question_type": "all", "n": 900, "method": "adafv"}]
    rows.append({"question_type": "color", "n": 100, "method": "adafv"})
    missed = " ".join(measure._bar(35, {"meta": {"wall_seconds": 30}, "rows": rows}))
    assert "114." in missed
    assert "30 a second" in missed
    assert "**The bar is missed.**" in missed
    held = " ".join(measure._bar(35, {"meta": {"wall_seconds": 7}, "rows": rows}))
    assert "The bar holds." in held


def test_an_evaluation_is_measured(measure, tmp_path):
    """Every stage takes some of the time, all of them together all of it, and nothing stays
    patched.
    """
    before = (measure.prompts.generate, measure.suites.load_suite)
    out = tmp_path / "new"
    measure.main(["--limit", "3", "--rounds", "3", "--out", str(out)])
    assert (measure.prompts.generate, measure.suites.load_suite) == before
    results = json.loads((out / "results.json").read_text())
    configurations = 2 + len(measure.METHODS) * len(measure.KEEPS)
    for one in results["rounds"]:
        assert (one["questions"], one["answers"]) == (3, 3 * configurations)
        assert all(share > 0 for share in one["shares"].values())
        assert sum(one["shares"].values()) == pytest.approx(1)
    speed = results["summary"]["questions_per_second"]
    assert speed["low"] <= speed["median"] <= speed["high"]
    page = (out / "README.md").read_text()
    assert f"{speed['median']:.2f} ({speed['low']:.2f} to {speed['high']:.2f})" in page
    assert str(tmp_path) not in page.replace(results["meta"]["command"], "")


def test_the_page_is_what_the_committed_results_say(measure):
    """Nobody edited a figure of it by hand."""
    page = measure.written(SCRIPT.parent)
    assert SCRIPT.with_name("README.md").read_text(encoding="utf-8") == page
