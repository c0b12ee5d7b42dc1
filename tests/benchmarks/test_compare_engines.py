"""Protects the table of engines: each is compared with itself and with the fastest of all, and one
that fails says why.
"""

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks" / "peers"


@pytest.fixture
def compare_engines(monkeypatch):
    """The script, imported as when it runs."""
    monkeypatch.syspath_prepend(FOLDER)
    return importlib.import_module("compare_engines")


def answer(engine: str, method: str, keep: float, ms: float) -> dict:
    return {"engine": engine, "method": method, "keep": keep, "ms": ms, "read": 30}


def test_an_engine_is_compared_with_itself_and_with_the_fastest(compare_engines):
    answers = [
        answer("slow", "dense", 1.0, 400),
        answer("slow", "adafv+", 0.1, 100),
        answer("slow", "adafv+", 0.1, 110),
        answer("slow", "adafv+", 0.1, 90),
        answer("fast", "dense", 1.0, 200),
    ]
    dense, pruned, fast = compare_engines.rows_of(answers)
    assert (dense.engine, dense.method, dense.faster, dense.of_best) == ("slow", "dense", 1, 0.5)
    assert (pruned.median_ms, pruned.faster, pruned.of_best) == (100, 4, 2)
    assert (fast.faster, fast.of_best) == (1, 1)


def test_what_an_engine_prints_beside_its_answers_is_left_out(compare_engines, tmp_path):
    script = tmp_path / "engine.py"
    script.write_text('print(\'loading\'); print(\'{"engine": "vllm", "ms": 1}\')')
    assert list(compare_engines.told([sys.executable, script], 1, True)) == [
        {"engine": "vllm", "ms": 1}
    ]


def test_an_engine_that_fails_says_why(compare_engines, tmp_path):
    script = tmp_path / "engine.py"
    script.write_text("raise SystemExit('no memory left')")
    with pytest.raises(ValueError, match="engine failed: no memory left"):
        list(compare_engines.told([sys.executable, script], 1, True))


def test_every_case_sees_images_of_its_own_and_the_first_round_is_left_out(compare_engines, capsys):
    rounds = importlib.import_module("rounds_of_requests")
    cases = [rounds.Case("vllm", "dense", 1.0), rounds.Case("vllm", "adafv+", 0.1)]
    seen = []

    def ask(case, image):
        seen.append((case.method, image.tobytes()))
        return 7

    rounds.ask_all(cases, ask, side=4, rounds=2)
    assert len({image for _, image in seen}) == len(seen) == 6
    # the order turns
    methods = [method for method, _ in seen]
    assert methods == ["dense", "adafv+", "adafv+", "dense", "dense", "adafv+"]
    assert len(capsys.readouterr().out.splitlines()) == 4
    assert np.array_equal(rounds.picture(4, 3), rounds.picture(4, 3))


def test_the_page_shows_every_row(compare_engines, tmp_path):
    rows = compare_engines.rows_of(
        [answer("vllm", "dense", 1.0, 400), answer("vllm", "adafv+", 0.1, 100)]
    )
    meta = {"command": "command", "model": "a model", "side": 448, "threads": 2, "name": "a CPU"}
    text = compare_engines.page(meta | {"rounds": 3, "versions": "vLLM 0.32"}, rows)
    assert "| vLLM | adafv+ | 10 % | 30 | 0.10 s | 0.10 s | 4.00 | 4.00 |" in text
    compare_engines.draw(rows, tmp_path / "peers.png")
    assert (tmp_path / "peers.png").stat().st_size > 0
