"""Protects the count of repeated crops: a blank image's crops are copies, noise has none."""

import importlib
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

FOLDER = Path(__file__).parents[2] / "benchmarks" / "speed"


@pytest.fixture
def repeated_crops(monkeypatch):
    """The script, imported as when it runs."""
    monkeypatch.syspath_prepend(FOLDER)
    return importlib.import_module("repeated_crops")


@pytest.mark.parametrize("name", ["LLaVA-NeXT", "LLaVA-OneVision", "InternVL", "SmolVLM"])
def test_copies_are_counted(repeated_crops, name):
    processor = repeated_crops.processors()[name]
    blank = Image.new("RGB", (672, 672), "white")
    row = repeated_crops.counted("blank", name, processor, [blank, blank])
    # those of another image don't count
    assert row.crops > 2
    assert row.copies == row.crops - 2
    noise = np.random.default_rng(0).integers(0, 256, (672, 672, 3), dtype=np.uint8)
    assert repeated_crops.counted("noise", name, processor, [Image.fromarray(noise)]).copies == 0


def test_all_kinds_are_in_the_table(repeated_crops, tmp_path):
    repeated_crops.main(["--pages", "2", "--quiet", "--out", str(tmp_path)])
    rows = json.loads((tmp_path / "results.json").read_text())["rows"]
    assert len(rows) == 3 * 4
    assert {row["images"] for row in rows} == {"pages", "screens and plots", "photographs"}
    assert "| pages | SmolVLM | 2 |" in (tmp_path / "README.md").read_text()
