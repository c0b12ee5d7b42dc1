"""Protects the table of a tower's formats: what is measured is the tower in that format."""

import importlib
import json
from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).parents[2] / "benchmarks" / "speed"


@pytest.fixture
def tower_formats(monkeypatch):
    """The script, imported as when it runs."""
    monkeypatch.syspath_prepend(FOLDER)
    return importlib.import_module("tower_formats")


def test_formats_are_compared_with_float32(tower_formats, tmp_path):
    words = ["--without-large", "--models", "embedded", "--repeats", "2", "--quiet"]
    tower_formats.main([*words, "--out", str(tmp_path)])
    rows = json.loads((tmp_path / "results.json").read_text())["rows"]
    assert [row["format"] for row in rows] == list(tower_formats.FORMATS)
    exact, *others = rows
    assert exact["cosine"] == exact["same"] == 1
    # near float32, and not it
    for row in others:
        assert 0.9 < row["cosine"] < 1
        assert row["same"] > 0.7
    assert "| embedded | int8 |" in (tmp_path / "README.md").read_text()


def test_a_tower_changes_its_format_alone(tower_formats):
    tower = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.LayerNorm(8))
    int8 = tower_formats.in_format(tower, "int8")
    assert int8[0].weight().dtype == torch.qint8
    assert int8[1].weight.dtype == torch.float32
    assert tower_formats.in_format(tower, "bfloat16")[0].weight.dtype == torch.bfloat16
    # the tower itself stays
    assert tower[0].weight.dtype == torch.float32
