"""Batches on vLLM and Ray: the answers of the Hugging Face engine, line by line; nothing lost to a
death anywhere.
"""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("vllm", reason="needs vLLM: make test-vllm")

import psutil

from adafv import AdaFV, method
from adafv.batch.engine import EngineError
from adafv.batch.hf import HuggingFace
from adafv.batch.job import Batch
from adafv.batch.vllm import VLLMEngine
from adafv.data.suites import load_suite
from adafv.models.load import load

KEEPS = (None, 1, 0.25, 0.05)
TIMES = 10
"""How often the questions stand in the file: more lines than an engine takes at once."""
FEW = 4
"""How often in a shorter one, for what does not depend on how many there are."""
BAD = {
    "corrupt": {"image": "corrupt.png", "question": "is there a flag?"},
    "missing": {"image": "missing.png", "question": "is there a flag?"},
    "too long": {"image": "0.png", "question": "is there a flag? " * 900},
    "keep": {"image": "0.png", "question": "is there a flag?", "keep": 2},
    "no question": {"image": "0.png"},
}
WORDS = ("not an image", "does not exist", "maximum context length", "keep=2", "question=None")


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """Questions on scenes at several budgets, bad lines among them, again and again."""
    folder = tmp_path_factory.mktemp("batch")
    (folder / "corrupt.png").write_text("no image")
    lines: list[dict] = []
    for i, sample in enumerate(load_suite("scenes", limit=24, seed=1)):
        sample.image.save(folder / f"{i}.png")
        lines += [{"image": f"{i}.png", "question": question.text} for question in sample.questions]
    lines = [
        line | ({"keep": keep} if (keep := KEEPS[i % 4]) else {}) for i, line in enumerate(lines)
    ]
    for i, bad in enumerate(BAD.values()):
        lines.insert(4 * i + 1, bad)
    path = folder / "in.jsonl"
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines * TIMES))
    return path


@pytest.fixture(scope="module")
def shorter(source) -> Path:
    """The same questions, not as often."""
    path = source.with_name("short.jsonl")
    lines = source.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[: len(lines) // TIMES * FEW]))
    return path


@pytest.fixture(scope="module")
def expected(source, hf) -> list[dict]:
    """What the Hugging Face engine answers."""
    once = source.parent / "once.jsonl"
    lines = source.read_text().splitlines(keepends=True)
    once.write_text("".join(lines[: len(lines) // TIMES]))
    batch = plan(once, "hf.jsonl")
    batch.run(hf)
    records = read(batch.out)
    assert sum(r["error"] is not None for r in records) == len(BAD)
    return [r | {"id": i} for i, r in enumerate(records * TIMES, 1)]


@pytest.fixture(scope="module")
def few(expected) -> list[dict]:
    """The same of the shorter file."""
    return expected[: len(expected) // TIMES * FEW]


@pytest.fixture(scope="module")
def hf() -> HuggingFace:
    return HuggingFace(*load(), "embedded")


@pytest.fixture(scope="module")
def engine() -> VLLMEngine:
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    return VLLMEngine()


@pytest.fixture(scope="module")
def answered(shorter, few, engine) -> Path:
    """Results of a whole run, to be copied."""
    batch = plan(shorter, "answered.jsonl")
    batch.run(engine)
    check(batch.out, few)
    return batch.out


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def check(path: Path, expected: list[dict]) -> None:
    """Every line once, in order; of those that failed the reasons may be worded differently."""
    records = read(path)
    assert [bool(r["error"]) for r in records] == [bool(e["error"]) for e in expected]
    assert [r | {"error": None} for r in records] == [e | {"error": None} for e in expected]


def plan(source: Path, out: str, **options) -> Batch:
    return Batch(
        **{"source": source, "out": source.parent / out, "pruner": AdaFV(keep=0.1), **options}
    )


def copied(batch: Batch, results: Path) -> None:
    """Results of another run are this one's, too."""
    for ending in ("", ".settings.json"):
        shutil.copy(f"{results}{ending}", f"{batch.out}{ending}")


def command(source: Path, out: Path, engine: str, *options: object) -> subprocess.Popen:
    """The command with the method of `plan`, and an engine in processes of its own."""
    words = [
        sys.executable,
        "-m",
        "adafv",
        "batch",
        source,
        out,
        "--json",
        "--engine",
        engine,
        "--method",
        "adafv",
        *options,
    ]
    ray = {"RAY_memory_monitor_refresh_ms": "0", "RAY_worker_niceness": "0"}
    # Ray's engines are processes of their own anyway: at 1 they would each start one more
    apart = {"VLLM_ENABLE_V1_MULTIPROCESSING": "1" if engine == "vllm" else "0"}
    environment = os.environ | ray | apart
    with out.with_suffix(".log").open("w") as log:
        return subprocess.Popen(
            [*map(str, words)], stdout=subprocess.PIPE, stderr=log, env=environment
        )


def engines(process: subprocess.Popen) -> list[psutil.Process]:
    return [
        p
        for p in psutil.Process(process.pid).children(recursive=True)
        if "EngineCore" in "".join(p.cmdline())
    ]


def wait(happens: Callable[[], object], seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while not happens():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def count(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


@pytest.mark.parametrize(("batch_size", "times"), [(None, TIMES), (3, FEW)])
def test_answers_are_those_of_hugging_face(source, shorter, expected, engine, batch_size, times):
    """However many lines are on their way; a bad line has its own reason and stops no other."""
    lines = source if times == TIMES else shorter
    batch = plan(lines, f"{batch_size}.jsonl", batch_size=batch_size)
    summary = batch.run(engine)
    check(batch.out, expected[: len(expected) // TIMES * times])
    assert summary["failed"] == times * len(BAD)
    assert summary["resumed"] == 0
    errors = [record["error"] for record in read(batch.out)[: 4 * len(BAD)] if record["error"]]
    for error, words in zip(errors, WORDS, strict=True):
        assert words in error


@pytest.mark.parametrize("name", ["none", "adafv+", "random", "divprune"])
def test_methods(source, engine, hf, name):
    """Other methods, and the whole image, are those of the library too."""
    once = source.parent / "methods.jsonl"
    once.write_text(
        "".join(
            line for line in source.read_text().splitlines(keepends=True)[:40] if "keep" not in line
        )
    )
    pruner = method(name) if name == "none" else method(name, tokens=40)
    batches = [plan(once, f"{name}.{kind}.jsonl", pruner=pruner) for kind in ("hf", "vllm")]
    batches[0].run(hf)
    batches[1].run(engine)
    check(batches[1].out, read(batches[0].out))


def test_a_second_run_goes_on(shorter, few, engine, answered, monkeypatch):
    """Stopped in the middle, the last line torn: what is there isn't asked again."""
    batch = plan(shorter, "again.jsonl")
    copied(batch, answered)
    lines = batch.out.read_bytes().splitlines(keepends=True)
    batch.out.write_bytes(b"".join(lines[:-3]) + lines[-3][:20])
    asked, original = [], engine._enqueue
    monkeypatch.setattr(
        engine,
        "_enqueue",
        lambda question, n: (asked.append(question.number), original(question, n))[1],
    )
    assert batch.run(engine)["resumed"] == len(lines) - 3
    assert asked == [r["id"] for r in few[-3:]]
    check(batch.out, few)


def test_a_full_disk(shorter, few, engine):
    """What was written stays whole; with room the run is taken up."""
    batch, limits = (
        plan(shorter, "full.jsonl", batch_size=8),
        resource.getrlimit(resource.RLIMIT_FSIZE),
    )
    resource.setrlimit(resource.RLIMIT_FSIZE, (6000, limits[1]))
    try:
        with pytest.raises(ValueError, match="make room and run the same command again"):
            batch.run(engine)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert 0 < len(read(batch.out)) < len(few)
    batch.run(engine)
    check(batch.out, few)


@pytest.mark.parametrize("name", ["sparsevlm", "visionzip"])
def test_methods_that_vllm_does_not_show_enough(source, engine, name):
    """Said before anything is written."""
    batch = plan(source, "no.jsonl", pruner=method(name, keep=0.5))
    with pytest.raises(ValueError, match=f"{name} .*pass --engine hf"):
        batch.run(engine)
    assert not batch.out.exists()


def test_other_engines_do_not_mix(shorter, hf, answered):
    """Results of one engine aren't gone on with by another."""
    batch = plan(shorter, "mix.jsonl")
    copied(batch, answered)
    with pytest.raises(ValueError, match=r"engine='vllm' \(now 'hf'\)"):
        batch.run(hf)


def test_an_engine_that_cannot_start(source):
    """One sentence, no traceback of vLLM's."""
    with pytest.raises(EngineError, match="vLLM cannot start"):
        plan(source, "start.jsonl").run(VLLMEngine(max_model_len=10**6))


@pytest.mark.engines
def test_deaths(shorter, few, engine):
    """The command killed, then its engine: nothing is left running, and the next run goes on."""
    out = shorter.parent / "deaths.jsonl"
    process = command(shorter, out, "vllm", "--batch-size", 2)
    wait(lambda: count(out) > 10 or process.poll() is not None)
    left = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    gone, alive = psutil.wait_procs(left, timeout=30)
    assert gone
    assert not alive
    before = count(out)

    process = command(shorter, out, "vllm", "--batch-size", 2)
    wait(lambda: count(out) > before + 10 or process.poll() is not None)
    [core] = engines(process)
    core.kill()
    assert process.communicate(timeout=60)[0] == b""
    assert process.returncode == 2
    complaint = out.with_suffix(".log").read_text().splitlines()[-1]
    assert "has died" in complaint
    assert "run the same command again" in complaint
    assert before + 10 < count(out) < len(few)
    assert read(out)
    assert plan(shorter, out.name).run(engine)["resumed"] >= before + 10
    check(out, few)


@pytest.mark.engines
def test_ray_with_a_worker_killed(shorter, few):
    """Two workers, one killed in the middle: every line of the input has its result, once, in
    order.
    """
    pytest.importorskip("ray", reason="needs Ray: make test-vllm")
    out = shorter.parent / "ray.jsonl"
    process = command(shorter, out, "ray", "--workers", 2, "--batch-size", 4)
    wait(lambda: count(out) > 10 or process.poll() is not None)
    cores = engines(process)
    assert len(cores) == 2
    assert count(out) < len(few)
    worker = cores[0].parent()
    assert worker.name().startswith("ray::")
    worker.kill()
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 1, out.with_suffix(".log").read_text()  # bad lines are among them
    assert json.loads(said)["lines"] == len(few)
    check(out, few)
