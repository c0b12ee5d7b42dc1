"""Protects the table of start times: each command in a process of its own, less Python's own."""

import importlib
import json
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks" / "start"


@pytest.fixture
def start_times(monkeypatch):
    """The script, imported as when it runs, with a command that takes no time to import."""
    monkeypatch.syspath_prepend(FOLDER)
    script = importlib.import_module("start_times")
    nap = {"nap": ("-c", "import time; time.sleep(0.2)")}
    monkeypatch.setattr(script, "COMMANDS", {script.NOTHING: ("-c", "pass"), **nap})
    return script


def test_commands_are_timed(start_times, tmp_path):
    start_times.main(["--repeats", "2", "--quiet", "--out", str(tmp_path)])
    python, nap = json.loads((tmp_path / "results.json").read_text())["rows"]
    assert python["own_s"] == 0
    assert nap["wall_s"] >= nap["cpu_s"] + 0.15
    assert nap["wall_p95_s"] >= nap["wall_s"] >= python["wall_s"] + 0.1
    assert "| `nap` |" in (tmp_path / "README.md").read_text()


def test_a_command_that_fails_has_no_time(start_times, monkeypatch):
    monkeypatch.setattr(start_times, "COMMANDS", {start_times.NOTHING: ("-c", "exit(3)")})
    with pytest.raises(Exception, match="exit status 3"):
        start_times.measured(1, quiet=True)


def test_the_page_says_which_bars_hold(start_times):
    """An import counts without Python's own time, a command with it."""
    seconds = {start_times.NOTHING: 0.02, start_times.IMPORTS: 4.98, "import adafv": 0.06}
    seconds |= {"adafv methods": 0.3, "adafv table": 1.5, "adafv ask": 5.81}
    rows = []
    for name, wall in seconds.items():
        rows.append(start_times.Row(name, wall, wall, wall, wall - 0.02))
    meta = {"command": "c", "repeats": 1, "processor": "p", "cores": 2}
    page = start_times.page(meta, rows)
    assert "| `import adafv` | 0.05 s | 0.04 s | yes |" in page
    assert "| `adafv table` | 1 s | 1.5 s | no |" in page
    assert "4.98 s of its 5.81 s" in page
    assert "the other 0.83 s" in page
    assert "Those imports alone are beyond the bar." in page
