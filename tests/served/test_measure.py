"""Protects: the measurement of serving runs from nothing, counts what it claims to, and goes on
where it stopped.
"""

import csv
import json
import runpy
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("vllm", reason="needs vLLM: make test-vllm")

FOLDER = Path(__file__).parents[2] / "benchmarks" / "serving"
MEASURE = [sys.executable, str(FOLDER / "measure.py"), "--quick", "--quiet", "--out"]

pytestmark = pytest.mark.engines


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    out = tmp_path_factory.mktemp("serving")
    subprocess.run([*MEASURE, str(out)], check=True, capture_output=True, text=True, timeout=280)
    return out


@pytest.fixture(scope="module")
def rows(out):
    found = json.loads((out / "results.json").read_text())["rows"]
    return {(r["engine"], r["keep"], r["concurrency"], r["question"]): r for r in found}


def test_each_row_is_there_with_all_its_requests(rows):
    chosen = [("stock", 1.0), ("adafv", 1.0), ("adafv", 0.25)]
    assert set(rows) == {(*c, n, "new") for c in chosen for n in (1, 4)} | {
        (*c, 1, "again") for c in chosen
    }
    assert all(row["requests"] == (8 if row["concurrency"] == 4 else 4) for row in rows.values())
    assert all(0 < row["ttft_p50_ms"] <= row["ttft_p95_ms"] for row in rows.values())


def test_the_servers_read_as_many_tokens_as_the_report_says(rows):
    stock, dense, pruned = (
        rows[name, keep, 4, "new"] for name, keep in (("stock", 1), ("adafv", 1), ("adafv", 0.25))
    )
    assert (stock["visual_tokens"], pruned["visual_tokens"]) == (64, 16)
    assert stock["prompt_tokens"] == dense["prompt_tokens"] == pruned["prompt_tokens"] + 48
    assert (stock["kv_blocks_per_request"], pruned["kv_blocks_per_request"]) == (3, 2)


def test_new_questions_find_nothing_in_the_prefix_cache_and_second_ones_a_dense_picture(rows):
    assert all(row["prefix_hits"] == 0 for name, row in rows.items() if name[-1] == "new")
    assert rows["stock", 1.0, 1, "again"]["prefix_hits"] == 4 * 64
    assert rows["adafv", 0.25, 1, "again"]["prefix_hits"] == 0


def test_pruning_is_ideally_worth_the_ratio_of_flops(rows):
    assert rows["adafv", 1.0, 4, "new"]["ideal_speedup"] == 1
    assert 1.5 < rows["adafv", 0.25, 4, "new"]["ideal_speedup"] < 84 / 36
    assert rows["stock", 1.0, 4, "new"]["speedup"] == 1


def test_the_folder_explains_itself(out, rows):
    with (out / "results.csv").open() as file:
        assert len(list(csv.DictReader(file))) == len(rows)
    assert (out / "serving.png").stat().st_size > 10_000
    assert "measure.py --quick" in (out / "README.md").read_text()


@pytest.fixture
def again(out, monkeypatch):
    """The same script once more with other words, in this process, which has imported vLLM."""
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.setenv("VLLM_LOGGING_LEVEL", "ERROR")
    before, handler = set(sys.modules), signal.getsignal(signal.SIGTERM)

    def run(*words):
        monkeypatch.setattr(sys, "argv", [*MEASURE[1:], str(out), *words])
        runpy.run_path(MEASURE[1], run_name="__main__")

    yield run
    signal.signal(signal.SIGTERM, handler)
    # the modules beside the script, whose names are short
    for name in {path.stem for path in FOLDER.glob("*.py")} - before:
        sys.modules.pop(name, None)


def test_a_whole_run_is_not_measured_again(out, again):
    before = (out / "cells.jsonl").read_text()
    again()
    assert (out / "cells.jsonl").read_text() == before


def test_other_settings_are_not_mixed_in(again):
    with pytest.raises(SystemExit, match=r"error: .*another --out"):
        again("--method", "random")
