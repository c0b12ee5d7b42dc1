"""Accuracy against budget, one panel per suite."""

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from adafv.utils.checks import checked
from adafv.utils.records import distinct, where

__all__ = ["COLOURS", "FAINT", "INK", "MARKERS", "budget_axis", "draw"]

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#8C564B", "#B8A000", "#6A3D9A")
MARKERS = "oDs^vPX*"
_LINES = ("none", "blind")
_OURS = ("adafv", "adafv+")
_PLAIN = ("random", "uniform", "pool")
_REST = "#cccccc"
INK = "#222222"
FAINT = "#888888"


@checked
def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw the rows of an evaluation: accuracy against the share of tokens kept.

    It is relative to the dense model's. Dense and blind are horizontal lines in bands of their 95 %
    intervals. Of many methods only ours, the plain baselines and the best of the others at the
    smallest budget have a colour; the rest is grey.
    """
    rows = where(rows, question_type="all")
    suites = distinct(rows, "suite")
    names = _colored(rows)

    # a panel for each suite, all with the same scale
    figure = Figure(
        figsize=(1.6 + 3.9 * len(suites), 4.4), dpi=160, layout="constrained", facecolor="white"
    )
    panels = figure.subplots(1, len(suites), sharey=True, squeeze=False)[0]
    for axes, suite in zip(panels, suites, strict=True):
        # a method has the same colour in every panel
        _panel(axes, where(rows, suite=suite), names)
        axes.set_title(suite, loc="left", fontsize=12, fontweight="bold", color=INK)
    panels[0].set_ylabel("accuracy, % of the dense model", color=INK)
    figure.supxlabel("visual tokens kept", fontsize=10, color=INK)
    # without pruned methods there is nothing to name
    if names:
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside right center", frameon=False, fontsize=10)
    figure.savefig(path)


@checked
def budget_axis(axes: Axes, keeps: list[float]) -> None:
    """Lay out shares of the visual tokens from left (most) to right, on a logarithmic scale."""
    # budgets are halved again and again: equal steps on a logarithmic scale
    axes.set_xscale("log")
    axes.set_xlim(min(keeps) / 1.25, max(keeps) * 1.25)
    axes.invert_xaxis()
    # ticks at the budgets alone
    axes.xaxis.set_major_locator(FixedLocator(keeps))
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
        if len(chosen) < len(COLOURS):
            chosen.add(name)

    # ours first, in a fixed order, so that their colours are the same in every figure
    order = dict.fromkeys([*_OURS, *best])
    return [name for name in order if name in chosen]


def _panel(axes: Axes, rows: list[dict[str, Any]], names: list[str]) -> None:
    """Draw one suite: bands of dense and blind, grey lines, then those in colours."""
    dense = where(rows, method="none")[0]
    scale = 100 / dense["accuracy"] if dense["accuracy"] else 0.0
    for row in rows:
        if row["method"] in _LINES:
            _band(axes, row, scale)

    # every line starts at the dense model
    lines: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        if row["method"] not in _LINES:
            start = [(1.0, dense["accuracy"] * scale)]
            line = lines.setdefault(row["method"], start)
            line.append((row["keep"], row["accuracy"] * scale))

    # all grey ones share an entry of the legend
    label = "others"
    for name in sorted(lines):
        if name not in names:
            x, y = _sorted(lines[name])
            axes.plot(x, y, label=label, color=_REST, linewidth=1, zorder=2)
            label = "_"

    for i, name in enumerate(names):
        # ours are broader, and in front
        ours = name in _OURS
        x, y = _sorted(lines.get(name, [(1.0, dense["accuracy"] * scale)]))
        axes.plot(
            x,
            y,
            label=name,
            color=COLOURS[i % len(COLOURS)],
            marker=MARKERS[i % len(MARKERS)],
            linewidth=2.6 if ours else 1.5,
            markersize=7 if ours else 5,
            zorder=4 if ours else 3,
        )
    budget_axis(axes, sorted({row["keep"] for row in rows if row["keep"] > 0}))
    axes.set_ylim(bottom=0)


def _sorted(points: list[tuple[float, float]]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return x and y of points, from left to right."""
    x, y = zip(*sorted(points), strict=True)
    return x, y


def _band(axes: Axes, row: dict[str, Any], scale: float) -> None:
    """Draw a horizontal line in a band of its interval: dense is solid, blind is dashed."""
    dense = row["method"] == "none"
    label = "dense" if dense else "blind"
    height = row["accuracy"] * scale
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
        f"{label}, {100 * row['accuracy']:.1f} % right",
        (0.0, height),
        xycoords=("axes fraction", "data"),
        xytext=(3, 3),
        textcoords="offset points",
        fontsize=9,
        color="#555555",
    )
