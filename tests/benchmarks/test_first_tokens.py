"""Protects the measurement of bursts: each way of counting in turn, and whose times are whose."""

import importlib
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks" / "serving"


@pytest.fixture
def first_tokens(monkeypatch):
    """The script, imported as when it runs."""
    pytest.importorskip("psutil")
    monkeypatch.syspath_prepend(FOLDER)
    return importlib.import_module("first_tokens")


def test_every_repetition_visits_all(first_tokens):
    options = first_tokens.parse(["--out", "unused", "--repeats", "2"])
    trials = list(first_tokens.plan(options))
    assert len(set(trials)) == len(trials) == 2 * 2 * 3
    order = [(trial.engine, trial.keep) for trial in trials]
    assert order[:3] == [("stock", 1.0), ("kept", 0.05), ("all", 0.05)]
    assert order[6:9] == order[2::-1]


def test_rows_are_against_stock_of_their_repetition(first_tokens):
    """Two came first, and two after them."""
    records = []
    for repeat, slow in ((0, 1), (1, 10)):
        for engine, keep, waits in (
            ("stock", 1.0, [400, 800, 100, 100]),
            ("all", 0.05, [100, 200, 50, 50]),
        ):
            records.append(
                {
                    "repeat": repeat,
                    "concurrency": 2,
                    "engine": engine,
                    "keep": keep,
                    "requests": 4,
                    "seconds": slow * (4.0 if engine == "stock" else 2.0),
                    "ttft_ms": [slow * wait for wait in waits],
                    "tpot_ms": 1.0,
                    "others": 0.0,
                }
            )
    stock, ours = first_tokens.rows_of(records)
    assert (stock.engine, ours.engine) == ("stock", "all")
    assert (stock.speedup, stock.ttft_speedup, stock.burst_speedup) == (1, 1, 1)
    assert ours.speedup == 2
    assert ours.ttft_speedup == pytest.approx(250 / 75)
    assert ours.burst_speedup == 600 / 150
    assert ours.requests == 8


def test_three_servers_share_a_cpu(first_tokens, capsys):
    with pytest.raises(SystemExit):
        first_tokens.parse(["--out", "unused", "--device", "cuda"])
    assert "--device cpu" in capsys.readouterr().err
