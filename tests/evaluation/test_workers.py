"""Protects evaluations in several processes: the answers of one process, in its order, and one
sentence where a process dies.
"""

import json
import os
import signal

import pytest

from adafv.evaluation.evaluate import Evaluation
from adafv.evaluation.workers import Workers
from adafv.models.load import load

METHODS = ("adafv", "random", "resize", "oracle")


def plan(**options) -> Evaluation:
    given = dict(methods=METHODS, keeps=(0.1,), suites=("scenes",), limit=12, batch_size=4)
    return Evaluation(**given | options)


def answers(folder) -> list[dict]:
    """The answers in the order of the log, without their times."""
    records = [json.loads(line) for line in (folder / "answers.jsonl").read_text().splitlines()]
    for record in records:
        del record["seconds"]
    return records


@pytest.fixture(scope="module")
def embedded():
    return load(device="cpu", dtype="float32")


def answered(embedded, folder, workers=None):
    """Run the evaluation; return what it finds."""
    model, processor = embedded
    with plan().opened(model, processor, folder, "embedded") as log:
        return plan().answer(model, processor, log, name="embedded", workers=workers)


@pytest.mark.slow
def test_two_processes_answer_as_one_does(embedded, tmp_path):
    """Also what is left out (`resize` on crops), and after an interruption. One that dies is one
    sentence; what was answered before stays.
    """
    alone = answered(embedded, tmp_path / "one")
    with Workers(2, plan(), None, "cpu", "float32") as workers:
        together = answered(embedded, tmp_path / "two", workers)
        # half of the answers are there, and are not given again
        (tmp_path / "rest").mkdir()
        for file in ("settings.json", "answers.jsonl"):
            lines = (tmp_path / "one" / file).read_text().splitlines(keepends=True)
            half = lines[: len(lines) // 2] if file == "answers.jsonl" else lines
            (tmp_path / "rest" / file).write_text("".join(half))
        answered(embedded, tmp_path / "rest", workers)

        # Ctrl-C reaches them, too, and is the first process's to heed; then the second one dies
        for process in workers.processes:
            os.kill(process.pid, signal.SIGINT)
        answered(embedded, tmp_path / "again", workers)
        workers.processes[1].kill()
        workers.processes[1].join()
        with pytest.raises(ValueError, match=r"has died.* fewer --processes"):
            answered(embedded, tmp_path / "dead", workers)
    assert together.left_out == alone.left_out
    assert {method for _, method, _ in alone.left_out} == {"resize"}
    assert answers(tmp_path / "two") == answers(tmp_path / "one")
    assert answers(tmp_path / "rest") == answers(tmp_path / "one")
    assert answers(tmp_path / "again") == answers(tmp_path / "one")
    some = answers(tmp_path / "dead")
    assert len(some) < len(answers(tmp_path / "one"))
    assert some == answers(tmp_path / "one")[: len(some)]


def test_none_is_too_few():
    with pytest.raises(ValueError, match="processes=0 is too few: pass 1 or more"):
        Workers(0, plan())
