"""Protects: the stages of a served request add up to what the client waits, and the ideal shortens
nothing but the language model's prefill.
"""

import importlib
import json
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
    new = {keep: [asked(count, 40, 3 if keep < 1 else 0)] for keep, count in tokens.items()}
    again = {keep: [asked(count, 0, 3 if keep < 1 else 0)] for keep, count in tokens.items()}
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


@pytest.fixture
def folder(tmp_path):
    """A log of three requests at two budgets, one of which waited long, and what it is of."""
    lines = []
    for number, wait in enumerate((0, 0, 100)):
        for keep, prefill in ((1.0, 600), (0.25, 150)):
            for question, tower in (("new", 40), ("again", 0)):
                one = {"repeat": 0, "keep": keep, "question": question, "request": number}
                one |= {"queue": wait, "prefill": prefill + tower, "decode": 60, "selection": 0}
                lines.append(one | {"total": 10 + wait + prefill + tower + 60})
    (tmp_path / "cells.jsonl").write_text("\n".join(map(json.dumps, lines)))
    meta = {"command": "c", "shape": "llava-0.4b", "answer": 16, "method": "adafv"}
    meta |= {"processor": "p", "dtype": "float32", "cores": 2, "repeats": 1, "requests": 3}
    (tmp_path / "results.json").write_text(json.dumps({"meta": meta, "rows": []}))
    return tmp_path


def test_stages_are_medians_with_their_95th_percentile(stages, folder):
    text = stages.written(folder)
    assert "medians over 3 requests, in brackets the 95th percentile" in text
    row = "| 100 % | 10 (10) | 0.0 (90) | 40 (40) | 0.0 (0.0) | 600 (600) | 60 (60) | 710 (800) |"
    assert row in text


def test_means_of_rounds_have_no_95th_percentile(stages, folder):
    """As earlier runs have logged them."""
    lines = []
    for line in (folder / "cells.jsonl").read_text().splitlines():
        record = json.loads(line)
        del record["request"]
        lines.append(json.dumps(record))
    (folder / "cells.jsonl").write_text("\n".join(lines))
    text = stages.written(folder)
    assert "| 100 % | 10 | 0.0 | 40 | 0.0 | 600 | 60 | 710 |" in text
    assert "it has no 95th percentile; the next one has" in text


def test_counters_are_read_after_every_request(stages, monkeypatch, tmp_path):
    """A first question about a picture, and at once another one about it."""
    asked = []

    class Server:
        def __init__(self, *_, **__):
            self.now = 0.0

        def wait(self):
            pass

        close = wait

        def metrics(self):
            self.now += 0.1
            return dict.fromkeys(stages.COUNTED.values(), self.now)

    class Client:
        def __init__(self, *_):
            pass

        def run(self, server, trial, requests, seed):
            asked.append((trial.repeat, trial.question, requests, seed))
            return {"completed": requests, "ttfts": [1.0] * requests, "itls": [[]] * requests}

    monkeypatch.setattr(stages, "Server", Server)
    monkeypatch.setattr(stages, "Client", Client)
    words = ["--out", str(tmp_path), "--repeats", "1", "--keep", "0.25", "--requests", "2"]
    stages.main([*words, "--shape", "tiny", "--quiet"])
    measured = [one for one in asked if one[0] >= 0]
    assert [(question, requests) for _, question, requests, _ in measured] == [
        ("new", 1),
        ("again", 1),
    ] * 4
    seeds = [seed for *_, seed in measured]
    assert seeds[0::2] == seeds[1::2]
    assert len(set(seeds)) == 4
    rows = json.loads((tmp_path / "results.json").read_text())["rows"]
    assert rows[0]["p95"]["total"] == 1000
