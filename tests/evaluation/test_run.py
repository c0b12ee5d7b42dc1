"""A run into a folder, from Python as from the command line: what was measured before stays."""

import json

import pytest
from conftest import fixtures_of
from fakes import FakeSuites

from adafv.evaluation.evaluate import Evaluation
from adafv.evaluation.run import EvaluationRun

model, processor = fixtures_of("llava_next")


def test_two_runs_fill_one_folder(model, processor, tmp_path, monkeypatch):
    """Its files hold both; what a method refuses has its reason."""
    FakeSuites(monkeypatch, 2)

    def run(*methods: str, **options) -> EvaluationRun:
        plan = Evaluation(
            methods=methods, keeps=[0.25], suites=["shapes"], max_new_tokens=2, **options
        )
        return EvaluationRun(plan=plan, out=tmp_path)

    first = run("uniform").run(model, processor, name="tiny")
    assert [path.name for path in first.files if path.suffix == ".csv"] == ["results.csv"]
    second = run("random", "resize").run(model, processor, name="tiny")
    assert {row["method"] for row in second.rows} == {"none", "blind", "uniform", "random"}
    assert [refused["method"] for refused in second.refusals] == ["resize"]
    assert second.outdated == set()
    assert json.loads((tmp_path / "results.json").read_text()) == {
        "meta": second.meta,
        "rows": second.rows,
        "pairs": second.pairs,
    }
    # nothing is asked where rows would not go together
    with pytest.raises(ValueError, match="seed=0 "):
        run("random", seed=1).check(model, processor, "tiny")
