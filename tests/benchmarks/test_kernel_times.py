"""Kernels beside the PyTorch forms, as `benchmarks/speed/kernel_times.py` compares them."""

import importlib
import json
import os
from pathlib import Path

import pytest
import torch

from adafv.ops.kernels import SWITCH

FOLDER = Path(__file__).parents[2] / "benchmarks" / "speed"
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_both_forms_are_compared(monkeypatch, tmp_path, capsys):
    """A row for each method and budget; without Triton the PyTorch form alone, and the reason."""
    monkeypatch.syspath_prepend(FOLDER)
    monkeypatch.setenv(SWITCH, "torch")
    script = importlib.import_module("kernel_times")
    status = script.main(["--quick", "--device", str(DEVICE), "--out", str(tmp_path)])
    assert status == 0
    assert os.environ[SWITCH] == "torch"
    found = json.loads((tmp_path / "kernels.json").read_text())
    names = [(row["method"], row["visual_tokens"], row["kept_tokens"]) for row in found["rows"]]
    assert names == [(method, 40, kept) for method in script.METHODS for kept in (10, 2)]

    problem = found["meta"]["no_kernel"]
    assert (problem in capsys.readouterr().out) or not problem
    for row in found["rows"]:
        assert row["torch_ms"] > 0
        assert row["same"] is (None if problem else True)
        assert (row["triton_ms"] is None) == bool(problem)


def test_a_difference_is_a_failure(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(FOLDER)
    monkeypatch.setenv(SWITCH, "torch")
    script = importlib.import_module("kernel_times")
    row = script.Row("adafv", 40, 2, 1.0, 1.0, same=False)
    monkeypatch.setattr(script, "measured", lambda *_, **__: [row])
    assert script.main(["--quick", "--device", "cpu", "--out", str(tmp_path)]) == 1
