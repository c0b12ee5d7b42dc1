"""Protects the table of first steps: what is timed is what the docs say, typed in that order."""

import importlib
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def first_steps(monkeypatch):
    """The script, imported as when it runs."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks" / "start")
    return importlib.import_module("first_steps")


def lines(page: str) -> list[str]:
    """Return the lines of a page's blocks of commands, without what is said beside them."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return [line.partition("  # ")[0].strip() for line in text.splitlines() if line[:4] == " " * 4]


def test_the_way_to_an_answer_is_the_front_pages(first_steps):
    """No line is left out that it needs, and none is added."""
    way = [first_steps.CLONE, *(command for _, command in first_steps.ANSWER)]
    shown = [line.removesuffix(" && cd adafv") for line in lines("README.md")]
    # the answer is asked for in Python first
    first = [line for line in shown if line in way and line != first_steps.ASK]
    assert first == [command for command in way if command != first_steps.ASK]
    assert first_steps.ASK in shown


def test_the_way_to_a_server_is_the_quickstarts(first_steps):
    shown = lines("docs/vllm-quickstart.md")
    for command in (first_steps.INDEX, first_steps.INSTALL_VLLM):
        assert command in shown
    assert f"VLLM_CPU_KVCACHE_SPACE=1 {first_steps.SERVE}" in shown
    assert f"{first_steps.CLONE} && cd adafv" in shown


def test_a_way_that_is_not_walked_keeps_its_rows(first_steps, monkeypatch, tmp_path):
    def walk(folder, *, on_disk):
        yield first_steps.run("answer", "nothing", f"echo {on_disk}", folder)

    kept = {"way": "server", "step": "clone", "command": "git", "seconds": 1.0}
    before = {"meta": {}, "rows": [kept, kept | {"way": "answer"}]}
    (tmp_path / "results.json").write_text(json.dumps(before))
    monkeypatch.setitem(first_steps.WAYS, "answer", walk)
    first_steps.main(["--out", str(tmp_path), "--ways", "answer", "--on-disk", "--note", "a disk"])
    written = json.loads((tmp_path / "results.json").read_text())
    assert written["meta"]["note"] == "a disk"
    was, new = written["rows"]
    assert was == kept
    assert (new["way"], new["command"]) == ("answer", "echo True")


def test_a_step_that_fails_is_said(first_steps, tmp_path):
    with pytest.raises(ValueError, match="ls /nowhere fails:\nls: "):
        first_steps.run("answer", "nothing", "ls /nowhere", tmp_path)


def test_nothing_that_is_there_already_helps(first_steps, monkeypatch, tmp_path):
    """Neither the package of this process nor its caches are what a fresh user has."""
    monkeypatch.setenv("PYTHONPATH", "/somewhere")
    monkeypatch.setenv("ADAFV_HOME", "/somewhere")
    found = first_steps.fresh(tmp_path)
    assert "PYTHONPATH" not in found
    assert found["PIP_NO_CACHE_DIR"] == "1"
    assert "/somewhere" not in found.values()
