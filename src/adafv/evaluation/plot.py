"""Accuracy against budget, one panel per suite."""

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

__all__ = ["draw"]

_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#8C564B", "#B8A000", "#6A3D9A")
_MARKERS = "oDs^vPX*"
_FIRST = "adafv"
_INK, _FAINT = "#222222", "#888888"


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw the rows of an evaluation: share of the dense model's accuracy against the share of tokens kept.

    Dense and blind are horizontal lines in bands of their 95 % intervals.
    """
    rows = [row for row in rows if row["question_type"] == "all"]
    suites = list(dict.fromkeys(row["suite"] for row in rows))
    names = sorted({row["method"] for row in rows} - {"none", "blind"}, key=lambda name: (name != _FIRST, name))
    figure = Figure(figsize=(1.6 + 3.9 * len(suites), 4.4), dpi=160, layout="constrained", facecolor="white")
    panels = figure.subplots(1, len(suites), sharey=True, squeeze=False)[0]
    for axes, suite in zip(panels, suites, strict=True):
        _panel(axes, [row for row in rows if row["suite"] == suite], names)
        axes.set_title(suite, loc="left", fontsize=12, fontweight="bold", color=_INK)
    panels[0].set_ylabel("accuracy, % of the dense model", color=_INK)
    figure.supxlabel("visual tokens kept", fontsize=10, color=_INK)
    if names:
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside right center", frameon=False, fontsize=10)
    figure.savefig(path)


def _panel(axes: Axes, rows: list[dict[str, Any]], names: list[str]) -> None:
    dense = next(row for row in rows if row["method"] == "none")
    keeps = sorted({row["keep"] for row in rows if row["keep"] > 0})
    scale = 100 / dense["accuracy"] if dense["accuracy"] else 0.0
    for row in rows:
        if row["method"] in ("none", "blind"):
            _band(axes, row, scale)
    for i, name in enumerate(names):
        line = sorted((row["keep"], row["accuracy"] * scale) for row in rows if row["method"] == name)
        line.append((1.0, dense["accuracy"] * scale))
        first = name == _FIRST
        axes.plot(
            *zip(*line, strict=True), label=name, color=_COLOURS[i % len(_COLOURS)], marker=_MARKERS[i % len(_MARKERS)],
            linewidth=2.6 if first else 1.5, markersize=7 if first else 5, zorder=4 if first else 3,
        )  # fmt: skip
    axes.set_xscale("log")
    axes.set_xlim(min(keeps) / 1.25, max(keeps) * 1.25)
    axes.invert_xaxis()
    axes.xaxis.set_major_locator(FixedLocator(keeps))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda keep, _: f"{100 * keep:.3g} %"))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e8e8e8", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=_INK, labelsize=9)
    axes.set_ylim(bottom=0)


def _band(axes: Axes, row: dict[str, Any], scale: float) -> None:
    label = "dense" if row["method"] == "none" else "blind"
    height = row["accuracy"] * scale
    axes.axhspan(row["ci_low"] * scale, row["ci_high"] * scale, color=_FAINT, alpha=0.15, linewidth=0)
    axes.axhline(height, color=_FAINT, linewidth=1.1, linestyle="-" if label == "dense" else (0, (4, 3)))
    axes.annotate(
        f"{label}, {100 * row['accuracy']:.1f} % right", (0.0, height), xycoords=("axes fraction", "data"),
        xytext=(3, 3), textcoords="offset points", fontsize=9, color="#555555",
    )  # fmt: skip
