"""Accuracy against budget, one panel per suite."""

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from adafv.utils.checks import checked

__all__ = ["COLOURS", "FAINT", "INK", "MARKERS", "budget_axis", "draw"]

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#8C564B", "#B8A000", "#6A3D9A")
MARKERS = "oDs^vPX*"
_OURS, _DULL = ("adafv", "adafv+"), ("random", "uniform", "pool")
_REST = "#cccccc"
INK, FAINT = "#222222", "#888888"


@checked
def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw the rows of an evaluation: share of the dense model's accuracy against the share of
    tokens kept.

    Dense and blind are horizontal lines in bands of their 95 % intervals. Of many methods only
    ours, the dull baselines and the best of the others at the smallest budget have a colour; the
    rest is grey.
    """
    rows = [row for row in rows if row["question_type"] == "all"]
    suites = list(dict.fromkeys(row["suite"] for row in rows))
    names = _colored(rows)
    figure = Figure(
        figsize=(1.6 + 3.9 * len(suites), 4.4), dpi=160, layout="constrained", facecolor="white"
    )
    panels = figure.subplots(1, len(suites), sharey=True, squeeze=False)[0]
    for axes, suite in zip(panels, suites, strict=True):
        _panel(axes, [row for row in rows if row["suite"] == suite], names)
        axes.set_title(suite, loc="left", fontsize=12, fontweight="bold", color=INK)
    panels[0].set_ylabel("accuracy, % of the dense model", color=INK)
    figure.supxlabel("visual tokens kept", fontsize=10, color=INK)
    if names:
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside right center", frameon=False, fontsize=10)
    figure.savefig(path)


@checked
def budget_axis(axes: Axes, keeps: list[float]) -> None:
    """Shares of the visual tokens from left (most) to right, on a logarithmic scale."""
    axes.set_xscale("log")
    axes.set_xlim(min(keeps) / 1.25, max(keeps) * 1.25)
    axes.invert_xaxis()
    axes.xaxis.set_major_locator(FixedLocator(keeps))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda keep, _: f"{100 * keep:.3g} %"))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e8e8e8", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=INK, labelsize=9)


def _colored(rows: list[dict[str, Any]]) -> list[str]:
    """Up to as many methods as there are colours, in the order of the legend."""
    there = {row["method"] for row in rows} - {"none", "blind"}
    least = min((row["keep"] for row in rows if row["method"] in there), default=0.0)
    found: dict[str, list[float]] = {name: [] for name in sorted(there)}
    for row in rows:
        if row["method"] in there and row["keep"] == least:
            found[row["method"]].append(row["accuracy"])
    best = sorted(found, key=lambda name: -sum(found[name]) / max(1, len(found[name])))
    fixed = [name for name in (*_OURS, *_DULL) if name in there]
    chosen = {*fixed, *[name for name in best if name not in fixed][: len(COLOURS) - len(fixed)]}
    return [
        *[n for n in _OURS if n in chosen],
        *[n for n in best if n in chosen and n not in _OURS],
    ]


def _panel(axes: Axes, rows: list[dict[str, Any]], names: list[str]) -> None:
    dense = next(row for row in rows if row["method"] == "none")
    keeps = sorted({row["keep"] for row in rows if row["keep"] > 0})
    scale = 100 / dense["accuracy"] if dense["accuracy"] else 0.0
    for row in rows:
        if row["method"] in ("none", "blind"):
            _band(axes, row, scale)

    def line(name: str) -> Any:
        points = [(row["keep"], row["accuracy"] * scale) for row in rows if row["method"] == name]
        return zip(*sorted([*points, (1.0, dense["accuracy"] * scale)]), strict=True)

    for i, name in enumerate(sorted({row["method"] for row in rows} - {"none", "blind", *names})):
        axes.plot(*line(name), label="_" if i else "others", color=_REST, linewidth=1, zorder=2)
    for i, name in enumerate(names):
        first = name in _OURS
        axes.plot(
            *line(name), label=name, color=COLOURS[i % len(COLOURS)], marker=MARKERS[i % len(MARKERS)],
            linewidth=2.6 if first else 1.5, markersize=7 if first else 5, zorder=4 if first else 3,
        )  # fmt: skip
    budget_axis(axes, keeps)
    axes.set_ylim(bottom=0)


def _band(axes: Axes, row: dict[str, Any], scale: float) -> None:
    label = "dense" if row["method"] == "none" else "blind"
    height = row["accuracy"] * scale
    axes.axhspan(
        row["ci_low"] * scale, row["ci_high"] * scale, color=FAINT, alpha=0.15, linewidth=0
    )
    axes.axhline(
        height, color=FAINT, linewidth=1.1, linestyle="-" if label == "dense" else (0, (4, 3))
    )
    axes.annotate(
        f"{label}, {100 * row['accuracy']:.1f} % right", (0.0, height), xycoords=("axes fraction", "data"),
        xytext=(3, 3), textcoords="offset points", fontsize=9, color="#555555",
    )  # fmt: skip
