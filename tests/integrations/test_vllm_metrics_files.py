"""Protects what `/metrics` says where several processes serve, or one after another: their counts
lie in files of one folder (`PROMETHEUS_MULTIPROC_DIR`), which vLLM's chart sets to /tmp.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("prometheus_client", reason="needs vLLM: make test-vllm")

SERVES = """
import os, sys
os.getpid = lambda: int(sys.argv[1])
from adafv.integrations.vllm.counters import COUNTERS
COUNTERS.serve("a model", [0])
COUNTERS.count_image("adafv", 576, 58)
COUNTERS.count_refusal("options")
COUNTERS.count_work(0, 1, 2, [0.02])
"""
ASKED = """
from prometheus_client import CollectorRegistry, generate_latest, multiprocess
registry = CollectorRegistry()
multiprocess.MultiProcessCollector(registry)
print(generate_latest(registry).decode())
"""


def run(folder: Path, program: str, *words: str) -> str:
    """What a program prints in a process of its own, with this folder for metrics."""
    variables = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(folder)}
    command = [sys.executable, "-c", program, *words]
    return subprocess.check_output(command, env=variables, text=True)


def counted(folder: Path) -> dict[str, float]:
    """What `/metrics` says, by name and labels."""
    found = {}
    for line in run(folder, ASKED).splitlines():
        if not line.startswith("#") and line:
            name, value = line.rsplit(" ", 1)
            found[name] = float(value)
    return found


@pytest.mark.parametrize("second", ["101", "100"], ids=["beside it", "in its place"])
def test_processes_add_up(tmp_path, second):
    """Of several servers, and of one that was started again, whose number may be the same as in a
    container: what the folder holds is counted on, so that no counter falls.
    """
    for process in ("100", second):
        run(tmp_path, SERVES, process)
    found = counted(tmp_path)
    model = 'model_name="a model"'
    assert found[f'adafv:visual_tokens_seen_total{{method="adafv",{model}}}'] == 2 * 576
    assert found[f'adafv:visual_tokens_kept_total{{method="adafv",{model}}}'] == 2 * 58
    assert found[f'adafv:kept_share_count{{method="adafv",{model}}}'] == 2
    assert found[f'adafv:kept_share_bucket{{le="0.1",method="adafv",{model}}}'] == 0
    assert found[f'adafv:kept_share_bucket{{le="0.15",method="adafv",{model}}}'] == 2
    assert found[f'adafv:requests_refused_total{{{model},reason="options"}}'] == 2
    assert found[f'adafv:requests_refused_total{{{model},reason="media"}}'] == 0
    assert found[f'adafv:images_encoded_total{{engine="0",{model}}}'] == 2
    assert found[f'adafv:encodings_reused_total{{engine="0",{model}}}'] == 4
    assert found[f'adafv:selection_seconds_sum{{engine="0",{model}}}'] == pytest.approx(0.04)


def test_each_number_is_told_once(tmp_path):
    """Nothing says of which process it is: each start would begin new series."""
    for process in ("100", "101"):
        run(tmp_path, SERVES, process)
    ours = [name for name in counted(tmp_path) if name.startswith("adafv:")]
    assert len(ours) == len(set(ours)) > 30
    assert not any("pid" in name for name in ours)
