"""What selection costs, as `benchmarks/speed/selection.py` measures it."""

import csv
import importlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from adafv import Uniform
from adafv.models.prompting import build_batch
from adafv.speed.shapes import QUESTION, SHAPES, build, image

pytestmark = pytest.mark.slow

FOLDER = Path(__file__).parents[2] / "benchmarks" / "speed"


@pytest.fixture
def selection(monkeypatch):
    """The script, imported as when it runs."""
    monkeypatch.syspath_prepend(FOLDER)
    return importlib.import_module("selection")


def test_selection_is_measured(selection, tmp_path, capsys):
    """The script: a row for each method and N, lines through them, and nothing that our selection
    waits for.
    """
    selection.main(["--quick", "--quiet", "--device", "cpu", "--out", str(tmp_path)])
    found = json.loads((tmp_path / "selection.json").read_text())
    names = [(row["method"], row["visual_tokens"], row["kept_tokens"]) for row in found["rows"]]
    assert names == [(m, n, n // 20) for n in selection.QUICK["counts"] for m in selection.METHODS]
    assert all(row["low_ms"] <= row["select_ms"] <= row["high_ms"] for row in found["rows"])
    for name in selection.METHODS:
        assert found["fits"][name]["peak_bytes"]["exponent"] == pytest.approx(1, abs=0.15)
    counts = {(row["method"], row["stage"]): row for row in found["counts"]}
    assert all(row["visual_tokens"] == 2880 and row["operators"] > 0 for row in counts.values())
    assert list(counts) == [
        (m, stage) for m in selection.METHODS for stage in ("select", "rebuild")
    ]
    assert {key for key, row in counts.items() if row["reads"]} == {("listed", "select")}
    with open(tmp_path / "selection.csv") as file:
        assert len(list(csv.DictReader(file))) == len(names)
    assert (tmp_path / "selection.png").stat().st_size > 10_000
    out = capsys.readouterr().out
    assert all(
        words in out
        for words in (*selection.METHODS, "ms / 1,000", "exponent", "operators", "rebuild")
    )


def test_2880_tokens_are_five_crops_as_llava_next_packs_them(selection):
    """Coordinates are those of the real model for a square image; other numbers are one crop."""
    shape = SHAPES["llava-next-7b"]
    small = replace(shape, tower=SHAPES["tiny"].tower, text=SHAPES["tiny"].text)
    model = build(small.config(1), torch.device("cpu"), torch.float32)
    images = [image(shape.side, 0)]
    inputs = build_batch(shape.processor(), images, [QUESTION], torch.device("cpu"), torch.float32)
    [real] = Uniform(tokens=1).encode(model, inputs).tokens.coordinates
    assert torch.equal(selection.coordinates_of(2880), real)
    assert real[:, 0].unique().tolist() == [0, 1, 2, 3, 4]
    assert not selection.coordinates_of(1000)[:, 0].any()


def test_fit(selection):
    """A straight line is found; a square isn't one."""
    line = selection.fit([{"visual_tokens": n, "ms": 0.002 * n} for n in (1000, 3000, 9000)], "ms")
    assert (line["per_1000"], line["r2"], line["exponent"]) == pytest.approx((2, 1, 1))
    square = selection.fit([{"visual_tokens": n, "ms": n**2} for n in (1000, 3000, 9000)], "ms")
    assert square["exponent"] == pytest.approx(2)
    assert square["r2"] < 0.98


@pytest.mark.parametrize(
    ("read", "count"),
    [
        (lambda x: x.tolist(), 1),
        (lambda x: int(x.sum()) + float(x[0]), 2),
        (lambda x: x[x > 0], 1),
        (lambda x: bool((x > 0).any()), 1),
        (lambda x: torch.nonzero(x), 1),
        (lambda x: (x + 1).max().item(), 1),
        (lambda x: torch.ones(3)[0].item(), 0),
        (lambda x: x.sort().values.softmax(-1).masked_fill(x > 0, 0), 0),
    ],
)
def test_reads_are_those_of_the_device(selection, read, count):
    """Whatever makes the host wait counts, also of what was computed; the host's own
    tensors don't.
    """
    counts = importlib.import_module("counts")
    watched = counts._watched(torch.tensor([1.0, -1.0, 2.0]))
    assert counts._reads(lambda: read(watched)) == count
