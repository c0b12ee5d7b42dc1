"""A page on a plain pixel grid, and what every panel shares: sizes, colours, type."""

import math
import unicodedata
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from adafv.utils.checks import checked
from adafv.viz.fonts import drawable, families_for, warn_of
from adafv.viz.palette import BOTH as BOTH
from adafv.viz.palette import PLAIN as PLAIN
from adafv.viz.palette import RELEVANCE as RELEVANCE
from adafv.viz.palette import RIGHT as RIGHT
from adafv.viz.palette import SALIENCY as SALIENCY
from adafv.viz.palette import WRONG as WRONG

__all__ = ["PixelFigure", "wrapped"]

INK = "#1b1f24"
GREY = "#5d656e"
FAINT = "#d5d9de"
PAPER = "#ffffff"

# all in pixels from the top left corner
DPI = 100
MARGIN = 56
GAP = 54  # between panels
PANEL = 460  # width of one
BODY = 330  # height of one, below its title
SIDE = 108  # width of the column beside an image
HEAD = 66  # height of a panel's title and caption
TOP = 150  # height of the page's heading
ROW = 38  # between rows of panels
BOTTOM = 30
NOTE = 16
"""Height of the smallest type, which is read where a page is shown 900 pixels wide."""


@checked
class PixelFigure:
    """A figure that is addressed in pixels."""

    def __init__(self, width: int, height: int) -> None:
        self.width = width
        self.height = height
        self.figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor=PAPER)
        FigureCanvasAgg(self.figure)
        self._missing = ""

    def axes(self, x: float, y: float, width: float, height: float) -> Axes:
        """Add axes with nothing on them, in pixels too: x to the right, y down."""
        # matplotlib's own box is in shares of the page, from the bottom left
        box = (
            x / self.width,
            1 - (y + height) / self.height,
            width / self.width,
            height / self.height,
        )
        axes = self.figure.add_axes(box)
        axes.set(xlim=(0, width), ylim=(height, 0))
        axes.set_axis_off()
        return axes

    def text(
        self,
        x: float,
        y: float,
        text: str,
        size: float,
        color: str,
        room: float = math.inf,
        **options: Any,
    ) -> float:
        """Write a line whose middle is at y; return its width.

        Args:
            room: the widest it may be; what is beyond becomes an ellipsis.
        """
        text, missing = drawable(text)
        self._missing += missing
        style: dict[str, Any] = {
            "ha": "left",
            "va": "center",
            "parse_math": False,
            "fontsize": size * 72 / DPI,  # pixels to points
            "fontfamily": families_for(text),
        }
        drawn = self.figure.text(
            x / self.width, 1 - y / self.height, text, color=color, **(style | options)
        )
        while drawn.get_window_extent().width > room and text:
            text = text[:-1]
            drawn.set_text(f"{text.rstrip()} …")
        return drawn.get_window_extent().width

    def bar(self, x: float, y: float, width: float, height: float, color: str) -> None:
        """Draw a filled bar with its upper left corner at x, y."""
        corner = (x / self.width, 1 - (y + height) / self.height)
        shape = Rectangle(
            corner, width / self.width, height / self.height, facecolor=color, edgecolor="none"
        )
        self.figure.add_artist(shape)

    def finished(self) -> Figure:
        """Return the figure; warn of what was written in no installed font."""
        warn_of(self._missing)
        return self.figure


@checked
def wrapped(text: str, room: int, most: int) -> list[str]:
    """Break a text into lines, between words or wide characters.

    Wide ones (Chinese, emoji) count as two.

    Args:
        text: any; space is one blank.
        room: columns of a line.
        most: lines; what is beyond them becomes an ellipsis.
    """
    lines = [""]
    for word in text.split():
        for i, unit in enumerate(_units(word, room)):
            joined = f"{lines[-1]} {unit}".strip() if i == 0 else lines[-1] + unit
            if _columns(joined) <= room:
                lines[-1] = joined
            else:
                lines.append(unit)
    if len(lines) <= most:
        return lines

    # what is beyond becomes an ellipsis, for which there must be room
    last = lines[most - 1]
    while last and _columns(last) > room - 2:
        last = last[:-1]
    return [*lines[: most - 1], f"{last.rstrip()} …"]


def _units(word: str, room: int) -> list[str]:
    """Split a word into what a line does not break within.

    That is a wide character, or the narrow ones between two of them, if they fit.
    """
    units: list[str] = []
    for c in word:
        narrow = _columns(c) < 2
        joins = bool(units) and _is_narrow(units[-1]) and _columns(units[-1]) < room
        if narrow and joins:
            units[-1] += c
        else:
            units.append(c)
    return units


def _is_narrow(text: str) -> bool:
    """Say whether no character of a text is wide."""
    return _columns(text) == len(text)


def _columns(text: str) -> int:
    """Count the columns of a text; a wide character has two."""
    columns = 0
    for c in text:
        columns += 2 if unicodedata.east_asian_width(c) in "WF" else 1
    return columns
