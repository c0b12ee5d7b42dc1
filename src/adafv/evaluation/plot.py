"""Accuracy against budget, one panel per suite."""

import math
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from adafv.utils.checks import checked
from adafv.utils.records import distinct, where
from adafv.viz.palette import colors_of

__all__ = ["FAINT", "INK", "MARKERS", "budget_axis", "draw", "name_ends", "save"]

NAMED = 7
"""Methods that have a colour and a name; all others are grey."""
COLUMNS = 2
FLOOR = 50.0
"""Where the axis begins, in per cent of the dense model, unless a named line lies below."""
CEILING = 106.0
"""And where it ends, unless one lies above."""
MARKERS = "oDs^vPX*"
NEARLY_ALL = 0.99
"""Share of the tokens beyond which a row is no budget: lines begin at the dense model."""
_LINES = ("none", "blind")
_OURS = ("adafv", "adafv+")
_PLAIN = ("random", "uniform")
_REST = "#cccccc"
INK = "#222222"
FAINT = "#888888"


@checked
def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw the rows of an evaluation: accuracy against the share of tokens kept.

    It is relative to the dense model's. Dense and blind are horizontal lines in bands of their 95 %
    intervals. Of many methods only ours, the plain baselines and the best of the others at the
    smallest budget have a colour, and their names at their ends; the rest is grey. The axis begins
    at `FLOOR`, or below the lowest line with a name: grey lines may leave it. Rows of more than
    `NEARLY_ALL` of the tokens are left out.
    """
    rows = where(rows, question_type="all")
    rows = [row for row in rows if not NEARLY_ALL < row["keep"] < 1]
    suites = distinct(rows, "suite")
    names = _colored(rows)

    # a panel for each suite, two in a row, all with the same scale
    columns = min(COLUMNS, len(suites))
    down = math.ceil(len(suites) / columns)
    # small in inches: text is still read where the page is 900 pixels wide
    figure = Figure(
        figsize=(4.6 * columns, 0.4 + 3.4 * down), dpi=200, layout="constrained", facecolor="white"
    )
    panels = figure.subplots(down, columns, squeeze=False).flatten()  # (down * columns,)
    limits = _limits(rows, suites, names)
    for axes, suite in zip(panels, suites, strict=False):
        # a method has the same colour in every panel
        _panel(axes, where(rows, suite=suite), names, limits)
        axes.set_title(suite, loc="left", fontsize=12, fontweight="bold", color=INK)
    # an odd number of suites leaves a place empty
    for axes in panels[len(suites) :]:
        axes.set_visible(False)
    figure.supylabel("accuracy, % of the dense model", fontsize=11, color=INK)
    others = {row["method"] for row in rows} - {*names, *_LINES}
    lines = "thin grey lines: all other methods; " if others else ""
    # one panel has no room for both in a line
    lines += "\n" if lines and columns == 1 else ""
    caption = f"visual tokens kept\n{lines}bands: 95 % intervals of dense and blind"
    figure.supxlabel(caption, fontsize=11, color=INK)
    save(figure, path)


@checked
def save(figure: Figure, path: Path) -> None:
    """Write a figure in the format of the file's suffix; in PDF with fonts that publishers take."""
    with rc_context({"pdf.fonttype": 42}):
        figure.savefig(path)


@checked
def name_ends(axes: Axes, ends: dict[str, tuple[float, float]], colors: dict[str, str]) -> None:
    """Write names beside the ends of their lines, moved apart where lines end close together.

    A thin line leads from each end to its name.

    Args:
        ends: x and y of the last point of each line; y inside the limits of the axes.
    """
    low, high = axes.get_ylim()
    # the height of a line of text, in units of the axis
    step = (high - low) * 0.062
    order = sorted(ends, key=lambda name: -ends[name][1])
    places: list[float] = []
    for name in order:
        # as near to its line as the name above allows
        above = places[-1] - step if places else math.inf
        places.append(min(ends[name][1], above))
    # those that would fall out below move the others up
    places[-1:] = [max(place, low) for place in places[-1:]]
    for i in range(len(places) - 2, -1, -1):
        places[i] = max(places[i], places[i + 1] + step)
    for name, place in zip(order, places, strict=True):
        axes.annotate(
            name,
            (ends[name][0], ends[name][1]),
            xytext=(1.05, place),
            textcoords=("axes fraction", "data"),
            va="center",
            fontsize=9.5,
            color=colors[name],
            fontweight="bold" if name in _OURS else "normal",
            arrowprops={
                "arrowstyle": "-",
                "color": colors[name],
                "linewidth": 0.6,
                "relpos": (0, 0.5),
                "shrinkA": 1,
            },
        )


@checked
def budget_axis(axes: Axes, keeps: list[float]) -> None:
    """Lay out shares of the visual tokens from left (most) to right, on a logarithmic scale."""
    # budgets are halved again and again: equal steps on a logarithmic scale
    axes.set_xscale("log")
    axes.set_xlim(min(keeps) / 1.25, max(keeps) * 1.25)
    axes.invert_xaxis()
    # ticks at the budgets alone; of two whose numbers would overlap the larger
    ticks: list[float] = []
    for keep in sorted(keeps, reverse=True):
        if not ticks or keep < 0.9 * ticks[-1]:
            ticks.append(keep)
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda keep, _: f"{100 * keep:.3g} %"))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e8e8e8", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=INK, labelsize=9)


def _colored(rows: list[dict[str, Any]]) -> list[str]:
    """Return up to as many methods as there are colours, in the order of the legend."""
    pruned = [row for row in rows if row["method"] not in _LINES]
    smallest = min((row["keep"] for row in pruned), default=0.0)

    # the best at the smallest budget, mean over the suites
    found: dict[str, list[float]] = {}
    for row in pruned:
        accuracies = found.setdefault(row["method"], [])
        if row["keep"] == smallest:
            accuracies.append(row["accuracy"])
    best = sorted(found, key=lambda name: (-sum(found[name]) / max(1, len(found[name])), name))

    # ours and the plain ones have a colour whatever their accuracy
    chosen = {name for name in (*_OURS, *_PLAIN) if name in found}
    for name in best:
        if len(chosen) < NAMED:
            chosen.add(name)

    # ours first, in a fixed order, so that their colours are the same in every figure
    order = dict.fromkeys([*_OURS, *best])
    return [name for name in order if name in chosen]


def _limits(rows: list[dict[str, Any]], suites: list[str], names: list[str]) -> tuple[float, float]:
    """Return the ends of the axes: no line with a name leaves them."""
    lowest = FLOOR
    highest = CEILING
    for suite in suites:
        own = where(rows, suite=suite)
        scale = _scale(own)
        for row in own:
            if row["method"] in names:
                lowest = min(lowest, row["accuracy"] * scale)
                highest = max(highest, row["accuracy"] * scale + 4)
    return 10.0 * math.floor(lowest / 10), highest


def _scale(rows: list[dict[str, Any]]) -> float:
    """Return what turns accuracies of a suite into per cent of the dense model's."""
    dense = where(rows, method="none")[0]["accuracy"]
    return 100 / dense if dense else 0.0


def _panel(
    axes: Axes, rows: list[dict[str, Any]], names: list[str], limits: tuple[float, float]
) -> None:
    """Draw one suite: bands of dense and blind, grey lines, then those in colours."""
    dense = where(rows, method="none")[0]
    scale = _scale(rows)
    for row in rows:
        if row["method"] in _LINES:
            _band(axes, row, scale, limits[0])

    # every line starts at the dense model
    lines: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        if row["method"] not in _LINES:
            start = [(1.0, dense["accuracy"] * scale)]
            line = lines.setdefault(row["method"], start)
            line.append((row["keep"], row["accuracy"] * scale))

    for name in sorted(lines):
        if name not in names:
            x, y = _sorted(lines[name])
            axes.plot(x, y, color=_REST, linewidth=1, zorder=2)

    colors = colors_of(names)
    ends = {}
    for i, name in enumerate(names):
        # ours are broader, and in front
        ours = name in _OURS
        # a suite may lack a method
        if name not in lines:
            continue
        x, y = _sorted(lines[name])
        ends[name] = (x[0], y[0])
        axes.plot(
            x,
            y,
            color=colors[name],
            marker=MARKERS[i % len(MARKERS)],
            linewidth=2.6 if ours else 1.5,
            markersize=7 if ours else 5,
            # the lowest may lie on the axis
            clip_on=False,
            zorder=4 if ours else 3,
        )
    budget_axis(axes, sorted({row["keep"] for row in rows if row["keep"] > 0}))
    axes.set_ylim(*limits)
    if ends:
        name_ends(axes, ends, colors)


def _sorted(points: list[tuple[float, float]]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return x and y of points, from left to right."""
    x, y = zip(*sorted(points), strict=True)
    return x, y


def _band(axes: Axes, row: dict[str, Any], scale: float, floor: float) -> None:
    """Draw a horizontal line in a band of its interval: dense is solid, blind is dashed.

    One below the axis is said at its foot.
    """
    dense = row["method"] == "none"
    label = "dense" if dense else "blind"
    height = row["accuracy"] * scale
    text = f"{label}: {100 * row['accuracy']:.1f} % right"
    if height < floor:
        axes.annotate(
            f"{text}, below", (0.02, 0.02), xycoords="axes fraction", fontsize=9, color="#555555"
        )
        return
    # the band first, so that the line is over it
    axes.axhspan(
        row["ci_low"] * scale,
        row["ci_high"] * scale,
        color=FAINT,
        alpha=0.15,
        linewidth=0,
    )
    axes.axhline(
        height,
        color=FAINT,
        linewidth=1.1,
        linestyle="-" if dense else (0, (4, 3)),
    )
    axes.annotate(
        text,
        (0.0, height),
        xycoords=("axes fraction", "data"),
        # above the markers where all lines begin
        xytext=(3, 9 if dense else 3),
        textcoords="offset points",
        fontsize=9,
        color="#555555",
        # legible where lines cross it
        path_effects=[withStroke(linewidth=2.5, foreground="white")],
        zorder=10,
    )
