"""Protects the serving table: its ideals and shares follow from the trials by hand."""

import importlib
import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks" / "serving"


@pytest.fixture
def sessions(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    return importlib.import_module("sessions")


@pytest.fixture
def report(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    # another folder has a script of that name
    monkeypatch.delitem(sys.modules, "report", raising=False)
    return importlib.import_module("report")


@pytest.fixture
def rows(monkeypatch):
    """One request at a time: stock's wait 1 s or 3 s, adafv's 0.5 s."""
    monkeypatch.syspath_prepend(FOLDER)
    rows_of = importlib.import_module("serving_rows").rows_of
    shape = importlib.import_module("shapes").SHAPES["llava-0.4b"]
    shared = {"concurrency": 1, "question": "new", "requests": 2, "answer_tokens": 16}
    shared |= {"kv_blocks": 1, "running": 1, "preemptions": 0, "prefix_hits": 0, "others": 0}
    trials = []
    for repeat in range(2):
        own = {"engine": "stock", "keep": 1.0, "prompt_tokens": 596, "tpot_ms": 40, "seconds": 4}
        trials.append({**shared, **own, "repeat": repeat, "ttft_ms": [1000, 3000]})
        own = {"engine": "adafv", "keep": 0.05, "prompt_tokens": 49, "tpot_ms": 20, "seconds": 2}
        trials.append({**shared, **own, "repeat": repeat, "ttft_ms": [500, 500]})
    cache = {"blocks": 100, "block_size": 32}
    found = rows_of(trials, {"stock": cache, "adafv": cache}, shape)
    return {row["engine"]: row for row in found}


def test_ideal_at_the_cost_of_decoding(rows):
    """Up to the first token as much less as FLOPs say, then what the other tokens took."""
    ours = rows["adafv"]
    at_best = 2000 / ours["ttft_ideal"] + 15 * 20
    assert ours["ideal_as_decoded"] == pytest.approx((2000 + 15 * 40) / at_best, rel=1e-3)
    assert rows["stock"]["ideal_as_decoded"] == 1
    # no budget shortens the decode, so it is far below the ratio of FLOPs up to the first token
    assert ours["ideal_as_decoded"] < ours["ttft_ideal"]


def test_a_resumed_run_is_compared_with_stock_of_its_own_session(sessions):
    """The machine is half as fast on the second day; a trial without stock beside it counts
    nowhere.
    """
    trial = {"concurrency": 1, "question": "new", "repeat": 0, "keep": 1.0}
    first = [trial | {"engine": "stock"}, trial | {"engine": "adafv"}]
    later = [trial | {"engine": "stock", "session": 2}, trial | {"engine": "kept", "session": 2}]
    alone = [trial | {"engine": "all", "session": 3}]
    assert sessions.compared([*first, *later, *alone]) == [*first, *later]
    turns = [sessions.turn_of(record)[0] for record in (*first, *later)]
    assert turns == [1, 1, 2, 2]
    assert sessions.next_session([*first, {"engine": "stock", "blocks": 1}]) == 2


def test_stock_is_timed_again_beside_what_lacks(sessions):
    """Of that repetition and number at once alone, and nothing where nothing lacks."""
    pytest.importorskip("psutil")
    Trial = importlib.import_module("client").Trial
    assert Trial._fields == sessions.TRIAL
    planned = []
    for repeat in range(2):
        for engine in ("stock", "adafv"):
            planned.append([Trial(repeat, 1, engine, 1.0)])
    records = [trial._asdict() for [trial] in planned]
    assert sessions.todo(planned, records) == []
    assert sessions.todo(planned, records[:3]) == planned[2:]
    assert sessions.todo(planned, []) == planned
    # a kill has left a trial alone: it is timed again, too
    assert sessions.todo(planned, [records[0], *records[2:]]) == planned[:2]
    assert sessions.todo(planned, records[1:]) == planned[:2]


def test_committed_trials_have_stock_beside_them(sessions):
    """Records without a session are of one."""
    for folder in (FOLDER, FOLDER / "bursts"):
        records = list(map(json.loads, (folder / "cells.jsonl").read_text().splitlines()))
        trials = [record for record in records if "repeat" in record]
        assert sessions.compared(records) == trials


def test_shares_in_time(rows):
    assert [rows["stock"][f"within_{limit}_s"] for limit in (1, 2, 5)] == [0.5, 0.5, 1]
    assert rows["adafv"]["within_1_s"] == 1
    assert rows["stock"]["ttft_p99_ms"] == pytest.approx(3000)


def test_a_rewritten_report_is_of_the_versions_that_were_measured(report, tmp_path):
    """Here may be other ones, or no vLLM at all: every committed file comes out as it is."""
    for name in ("results.json", "cells.jsonl"):
        shutil.copy(FOLDER / name, tmp_path)
    # what the page sets beside its own rows
    shutil.copytree(FOLDER / "bursts", tmp_path / "bursts")
    report.rewrite(tmp_path)
    for name in ("results.json", "results.csv", "README.md"):
        assert (tmp_path / name).read_text() == (FOLDER / name).read_text(), name


def test_a_report_that_fails_writes_nothing(report, tmp_path):
    """No half of it: results stay what they were."""
    for name in ("results.json", "cells.jsonl"):
        shutil.copy(FOLDER / name, tmp_path)
    meta = json.loads((tmp_path / "results.json").read_text())
    del meta["meta"]["versions"]["vllm"]
    (tmp_path / "results.json").write_text(json.dumps(meta))
    before = (tmp_path / "results.json").read_text()
    with pytest.raises(KeyError):
        report.rewrite(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"results.json", "cells.jsonl"}
    assert (tmp_path / "results.json").read_text() == before


@pytest.fixture
def measure(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    # other folders have scripts of these names
    for name in ("measure", "report"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    yield importlib.import_module("measure")
    del sys.modules["measure"]


def test_make_bench_gpu_ends_with_a_server_under_load(measure):
    """With one request at a time to 64, by options that the script knows."""
    command = ["make", "--dry-run", "--no-print-directory", "bench-gpu"]
    root = FOLDER.parents[1]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    words = shlex.split(done.stdout.splitlines()[-1])
    options = measure.parse(words[words.index("benchmarks/serving/measure.py") + 1 :])
    assert options.concurrency == [1, 8, 32, 64]
    assert (options.device, options.shape, options.repeats) == ("cuda", "llava-next-7b", 1)


def test_the_page_sets_the_present_scheduling_beside_the_earlier(report, rows):
    """TTFT's median of each number at once, from the rows and from a run of bursts."""
    found = []
    for at_once, stock, ours in ((8, 6000, 2000), (32, 9000, 8000)):
        found.append({**rows["stock"], "concurrency": at_once, "ttft_p50_ms": stock})
        found.append({**rows["adafv"], "concurrency": at_once, "ttft_p50_ms": ours})
    later = {"engine": "all", "keep": 0.05, "repeats": 1}
    bursts = [later | {"concurrency": 8, "ttft_speedup": 7.44}]
    bursts.append(later | {"concurrency": 32, "ttft_speedup": 29.8})
    text = report._scheduled(found, {"meta": {"dtype": "float32"}, "rows": bursts})
    assert "| 8 | 3.00 | 7.44 |" in text
    assert "| 32 | 1.12 | 29.80 |" in text
    assert "1 repetition in float32" in text
