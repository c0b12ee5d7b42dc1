"""Committed pictures of measurements: whoever reads them where a page is 900 pixels wide can."""

import runpy
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

ROOT = Path(__file__).parents[2]
SHOWN = 900
"""Pixels that a picture is wide on a page of the code host."""
READ = 10
"""Pixels of the smallest type."""


def smallest(figure: Figure) -> float:
    """Height of the smallest type of a figure, in pixels, where it is `SHOWN` pixels wide."""
    figure.canvas.draw()
    written = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text()]
    points = min(text.get_fontsize() for text in written if isinstance(text, Text))
    return points / 72 * SHOWN / figure.get_figwidth()


@pytest.mark.slow
def test_every_committed_chart_is_read_at_the_width_of_a_page(monkeypatch, tmp_path):
    drawn: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: drawn.append(figure))
    drawings = runpy.run_path(str(ROOT / "benchmarks" / "redraw.py"))["drawings"]()
    for path, draw in drawings.items():
        target = tmp_path / "chart.png"
        # what is written by another name becomes the file
        target.touch()
        draw(target)
        assert smallest(drawn[-1]) >= READ, path
    assert len(drawn) == len(drawings)
