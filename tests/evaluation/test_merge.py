"""Results of several runs in one folder: rows of one table are alike, and nothing stale stays."""

import json
from pathlib import Path

import pytest
from fakes import FakeSuites

from adafv.cli import main
from adafv.evaluation import report
from adafv.evaluation.merge import check_mergeable, earlier, merged

ROOT = Path(__file__).parents[2]
ALIKE = {"model": "m", "device": "cpu", "dtype": "float32", "seed": 0, "split": "test"}
ALIKE |= {"max_new_tokens": 4, "weights": "w", "processor": "p", "machine": {"name": "a CPU"}}
META = ALIKE | {"versions": {"adafv": "1", "torch": "2", "transformers": "3", "python": "4"}}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"weights": "x"}, "weights='w'"),
        ({"processor": "x"}, "processor='p'"),
        ({"machine": {"name": "another"}}, "machine='a CPU'"),
        ({"versions": META["versions"] | {"torch": "9"}}, "torch='2'"),
        ({"versions": META["versions"] | {"transformers": "9"}}, "transformers='3'"),
    ],
)
def test_rows_of_other_models_versions_and_machines_are_not_put_together(change, said):
    """Without the log and its settings, which are not committed, the results say it themselves."""
    before = {"meta": META, "rows": []}
    check_mergeable(before, META, {}, [])
    with pytest.raises(ValueError, match=said):
        check_mergeable(before, META | change, {}, [])


def test_results_of_earlier_versions_are_compared_in_what_they_have():
    """They name versions, and neither weights nor machine."""
    names = ("model", "device", "dtype", "seed", "split", "max_new_tokens")
    before = {"meta": {name: META[name] for name in names}, "rows": []}
    check_mergeable(before, META | {"weights": "x"}, {}, [])
    before["meta"]["versions"] = {"torch": "2"}
    check_mergeable(before, META, {}, [])
    with pytest.raises(ValueError, match="torch='2'"):
        check_mergeable(before, META | {"versions": {"torch": "9"}}, {}, [])
    committed = earlier(ROOT / "benchmarks" / "fresh")
    assert committed is not None
    check_mergeable(committed, META | committed["meta"], {}, [])


def evaluate(out: Path, *words: str) -> tuple[int, dict]:
    """Run `adafv eval` on the embedded model, and return its status and results."""
    status = main(["eval", "--suite", "shapes", "--keep", "0.5", "--out", str(out), *words])
    return status, report.read(out / "results.json")


def test_a_retrained_model_is_told_without_the_log(tmp_path, monkeypatch, capsys):
    """It keeps its name."""
    FakeSuites(monkeypatch, 1)
    status, found = evaluate(tmp_path, "--methods", "uniform")
    assert status == 0
    assert {"weights", "processor", "machine"} <= found["meta"].keys()
    for name in ("answers.jsonl", "settings.json"):
        (tmp_path / name).unlink()
    found["meta"]["weights"] = "00000000"
    (tmp_path / "results.json").write_text(json.dumps(found))
    status, after = evaluate(tmp_path, "--methods", "random")
    assert status == 2
    assert "weights='00000000'" in capsys.readouterr().err
    assert after == found


def test_pairs_are_of_the_answers_that_the_rows_are_of(tmp_path, monkeypatch):
    """More questions, and another method to compare with: pairs of before are drawn anew."""
    FakeSuites(monkeypatch)
    first = evaluate(tmp_path, "--methods", "random,uniform", "--limit", "2")[1]
    assert {(pair["method"], pair["rival"]) for pair in first["pairs"]} == {("random", "uniform")}
    methods = ("--methods", "random,uniform,pool", "--against", "pool", "--limit", "5")
    second = evaluate(tmp_path, *methods)[1]
    pairs = {(pair["method"], pair["rival"]): pair["n"] for pair in second["pairs"]}
    assert pairs["random", "uniform"] == pairs["pool", "random"] == 9
    assert second["meta"]["against"] == ["pool"]


def test_a_pair_whose_side_alone_was_measured_again_goes():
    """Answers of the other side are not there to compare with."""
    old = {"suite": "s", "keep": 0.5, "method": "a", "rival": "b"}
    row = {"suite": "s", "keep": 0.5, "question_type": "all", "n": 2}
    rows = [row | {"method": "a"}, row | {"method": "b"}]
    found = {"meta": {}, "rows": rows, "pairs": [old, old | {"method": "c"}]}
    assert merged(found, [row | {"method": "a"}], [])[1] == [old | {"method": "c"}]
    new = [old | {"n": 2}]
    assert new[0] in merged(found, [row | {"method": "a"}], new)[1]
