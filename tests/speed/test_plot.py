"""Protects what stands beside the bars of the chart of stages."""

import matplotlib as mpl
import pytest

from adafv.speed.plot import draw
from adafv.speed.stages import STAGES


@pytest.mark.parametrize(
    ("speedup", "said"),
    [(8.0, "8.0 times faster"), (0.5, "2.0 times slower"), (0.97, "as fast"), (1.03, "as fast")],
)
def test_what_is_slower_is_called_slower(tmp_path, monkeypatch, speedup, said):
    """Nothing is "0.9 times faster"."""
    monkeypatch.setitem(mpl.rcParams, "svg.fonttype", "none")
    rows = []
    for method, keep, times in (("none", 1.0, 1.0), ("adafv", 0.1, speedup)):
        row = {"method": method, "keep": keep, "batch": 1, "speedup": times, "ideal_speedup": 2.0}
        rows.append(row | {f"{stage}_ms": 10.0 for stage in STAGES} | {"ttft_ms": 40.0 / times})
    draw(rows, "a model", tmp_path / "speed.svg")
    assert f", {said} (ideal: 2.0)" in (tmp_path / "speed.svg").read_text()
