"""A page of panels, as all figures have it: heading, panels, two lines of caption."""

import re
import textwrap
from typing import Any, Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from adafv.utils.checks import checked
from adafv.viz.figure import FAINT, GREY, INK, PAPER

__all__ = ["name_lines", "number", "page", "style"]

CAPTION_LINES = 2
LINE = 0.165
"""Height of a line of the caption, in inches."""


@checked
def page(width: float, height: float, title: str, caption: str) -> Figure:
    """Make a figure of `height` inches with a heading above it and a caption below.

    A caption of more than two lines is cut.
    """
    # no line ends within a number, a list of numbers, or the name of a layer
    unbroken = re.sub(
        r" (?=[/\[])|(?<=/) |(?<=\d,) (?=\d)|(?<=layer) ", "\N{NO-BREAK SPACE}", caption
    )
    lines = textwrap.wrap(
        unbroken,
        int(width * 14.6),  # letters an inch
        max_lines=CAPTION_LINES,
        placeholder=" …",
    )

    # the caption makes the page longer, not the panels smaller
    foot = LINE * len(lines) + 0.25
    head = 0.5
    total = foot + height + head
    figure = Figure(figsize=(width, total), dpi=200, layout="constrained", facecolor=PAPER)
    engine: Any = figure.get_layout_engine()
    engine.set(
        rect=(0.1 / width, foot / total, 1 - 0.25 / width, height / total), w_pad=0.06, h_pad=0.04
    )

    # heading and caption are no part of the layout
    edge = 0.14 / width
    figure.text(edge, 1 - 0.16 / total, title, fontsize=13, fontweight="bold", color=INK, va="top")
    text = figure.text(
        edge, 0.12 / total, "\n".join(lines), fontsize=9, color=INK, va="bottom", linespacing=1.35
    )
    text.set_in_layout(False)
    return figure


@checked
def style(axes: Axes, title: str, grid: Literal["x", "y"] | None) -> None:
    """Give a panel its title, thin borders, and a grid along one axis."""
    axes.set_title(
        title,
        loc="left",
        fontsize=10.5,
        fontweight="bold",
        color=INK,
    )
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(FAINT)
    axes.tick_params(colors=INK, labelsize=10, color=FAINT)
    axes.set_axisbelow(True)
    if grid:
        axes.grid(axis=grid, color="#e9ebee", linewidth=0.8)


@checked
def name_lines(axes: Axes, names: list[str]) -> None:
    """Give a panel a line for each name, the first on top."""
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)


@checked
def number(axes: Axes, y: float, text: str, heading: str = "") -> None:
    """Write a number at the right of a panel's line, under its heading."""
    # x in shares of the panel, y in its lines
    transform = axes.get_yaxis_transform()
    axes.text(1.03, y, text, transform=transform, fontsize=10, color=INK, va="center")
    if heading:
        axes.annotate(
            heading, (1.03, 1), (0, 5), "axes fraction", "offset points", fontsize=9.5, color=GREY
        )
