"""Results of several runs in one folder: rows of one table are alike, and nothing stale stays."""

import json
from pathlib import Path

import pytest
from fakes import FakeSuites

from adafv.cli import main
from adafv.evaluation import report
from adafv.evaluation.merge import check_mergeable, earlier

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
