"""Protects: the stages of a served request add up to what the client waits, and the ideal shortens
nothing but the language model's prefill.
"""

import importlib
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def stages(monkeypatch):
    """The script, imported as when it runs."""
    monkeypatch.syspath_prepend(BENCHMARKS / "serving")
    return importlib.import_module("request_stages")


def test_the_means_of_some_requests(stages):
    """Client's times are in seconds, counters only grow."""
    found = {"completed": 2, "ttfts": [0.2, 0.4], "itls": [[0.1, 0.1], [0.1, 0.1]]}
    before = {name: 5.0 for name in stages.COUNTED.values()}
    after = {name: 5.1 for name in stages.COUNTED.values()}
    one = stages.spent(found, before, after)
    assert one.total == pytest.approx(500)
    assert one.prefill == one.selection == pytest.approx(50)


@pytest.mark.parametrize("name", ["request_stages", "first_tokens"])
def test_a_run_is_not_resumed_under_other_versions(stages, monkeypatch, tmp_path, name):
    """Times of two versions of vLLM or PyTorch would stand in one table."""
    pytest.importorskip("psutil")
    script = importlib.import_module(name)
    settings = []

    def log(folder: Path, found: dict) -> None:
        settings.append(found)
        raise ValueError("held")

    monkeypatch.setattr(script, "Log", log)
    monkeypatch.setattr("signal.signal", lambda *_: None)
    monkeypatch.setenv("VLLM_LOGGING_LEVEL", "ERROR")
    with pytest.raises(ValueError, match="held"):
        script.main(["--out", str(tmp_path)])
    assert {"torch", "transformers"} <= settings[0]["versions"].keys()


def test_stages_add_up(stages):
    """With a tower of 40 ms, a prefill as long as the prompt, and a front of 10 ms."""

    def asked(tokens: int, tower: float, selection: float):
        prefill = tower + selection + tokens
        return stages.Spent(10 + 2 + prefill + 60, 2, prefill, 60, selection)

    tokens = {1.0: 600, 0.25: 150, 0.05: 30}
    new = {keep: asked(count, 40, 3 if keep < 1 else 0) for keep, count in tokens.items()}
    again = {keep: asked(count, 0, 3 if keep < 1 else 0) for keep, count in tokens.items()}
    rows = stages.rows_of(new, again, tokens.__getitem__)
    assert [row.keep for row in rows] == [1.0, 0.25, 0.05]
    for row in rows:
        assert (row.front, row.tower, row.llm) == pytest.approx((10, 40, tokens[row.keep]))
        parts = (row.front, row.queue, row.tower, row.selection, row.llm, row.decode)
        assert sum(parts) == pytest.approx(row.total)
    # all that is missing to the ideal is the selection
    assert rows[0].speedup == rows[0].ideal == 1
    assert rows[2].ideal == pytest.approx(rows[0].total / (rows[2].total - 3))
    meta = {"command": "c", "shape": "s", "answer": 16, "method": "adafv", "processor": "p"}
    meta |= {"dtype": "float32", "cores": 2, "repeats": 1, "requests": 1}
    assert stages.page(meta, rows).count("\n| ") == 4
