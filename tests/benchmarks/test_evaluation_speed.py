"""Protects: the stages of `benchmarks/evaluation/measure.py` share out the time of an evaluation,
and its page says what its rounds hold.
"""

import importlib.util
import json
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
    results = json.loads(SCRIPT.with_name("results.json").read_text(encoding="utf-8"))
    assert SCRIPT.with_name("README.md").read_text(encoding="utf-8") == measure.page(results)
