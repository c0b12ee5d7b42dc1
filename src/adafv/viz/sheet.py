"""A page on a plain pixel grid, and what every panel shares: sizes, colours, type."""

from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

__all__ = ["Sheet"]

INK, GREY, FAINT, PAPER = "#1b1f24", "#5d656e", "#d5d9de", "#ffffff"
SALIENCY, RELEVANCE, BOTH, PLAIN = "#0072b2", "#d55e00", "#111111", "#009e73"

# All in pixels from the top left corner.
DPI = 100
MARGIN, GAP, PANEL, BODY, SIDE, HEAD = 56, 54, 460, 330, 108, 66
TOP, ROW, BOTTOM = 150, 38, 30


class Sheet:
    """A figure that is addressed in pixels."""

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = width, height
        self.figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor=PAPER)
        FigureCanvasAgg(self.figure)

    def axes(self, x: float, y: float, width: float, height: float) -> Axes:
        """Axes with nothing on them, in pixels too: x to the right, y down."""
        box = (x / self.width, 1 - (y + height) / self.height, width / self.width, height / self.height)
        axes = self.figure.add_axes(box)
        axes.set(xlim=(0, width), ylim=(height, 0))
        axes.set_axis_off()
        return axes

    def text(self, x: float, y: float, text: str, size: float, color: str, **options: Any) -> float:
        """Write a line whose middle is at y; returns its width."""
        style: dict[str, Any] = {"ha": "left", "va": "center", "parse_math": False, "fontsize": size * 72 / DPI}
        drawn = self.figure.text(x / self.width, 1 - y / self.height, text, color=color, **(style | options))
        return drawn.get_window_extent().width

    def bar(self, x: float, y: float, width: float, height: float, color: str) -> None:
        """A filled bar with its upper left corner at x, y."""
        corner = (x / self.width, 1 - (y + height) / self.height)
        shape = Rectangle(corner, width / self.width, height / self.height, facecolor=color, edgecolor="none")
        self.figure.add_artist(shape)
