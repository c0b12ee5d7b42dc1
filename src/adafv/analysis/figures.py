"""The four figures: rows in, a matplotlib figure out, each with its caption under it."""

import re
import textwrap
from typing import Any, Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from adafv.analysis.measure import (
    CHANCE,
    CONTENT,
    COSINE,
    DISTINCT,
    MUTUAL,
    RECEIVED,
    RELEVANCE,
    TOWER,
    TRUTH,
)
from adafv.analysis.tables import MEAN, Rows
from adafv.utils.checks import checked
from adafv.viz.figure import FAINT, GREY, INK, PAPER
from adafv.viz.figure import RELEVANCE as ORANGE
from adafv.viz.figure import SALIENCY as BLUE

__all__ = ["draw_auc", "draw_fewest", "draw_scores", "draw_similarity"]

COLORS = (BLUE, "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#8c564b", "#b8a000", "#6a3d9a")
MARKERS = "oDs^vPX*"
SIGNALS = {
    COSINE: "#e69f00", COSINE + CONTENT: "#e69f00", RELEVANCE: ORANGE, RELEVANCE + CONTENT: ORANGE, TOWER: BLUE,
    CHANCE: "#999999", TRUTH: "#999999", MUTUAL: "#8c564b", DISTINCT: "#8c564b", **dict.fromkeys(RECEIVED, "#56b4e9"),
}  # fmt: skip
LLM = ("#009e73", "#6a3d9a")
OURS = ("adafv", "adafv+")
DULL = ("random", "uniform", "pool")
LINE = 0.165
"""Height of a line of the caption, in inches."""


@checked
def draw_scores(rows: Rows, caption: str) -> Figure:
    """Fig. 1: a panel for each suite and their mean, a line for each method."""
    suites = _distinct(rows, "suite")
    names = sorted(_distinct(rows, "method"), key=lambda name: (name not in OURS, name))
    names = [name for name in names if name != "blind"]
    reductions = sorted({row["reduction"] for row in rows if row["method"] != "blind"})
    figure = _page(
        1.9 + 2.5 * len(suites), max(3.5, 0.21 * len(names)), "Score against reduction", caption
    )
    panels = figure.subplots(1, len(suites), sharey=True, squeeze=False)[0]
    for axes, suite in zip(panels, suites, strict=True):
        own = [row for row in rows if row["suite"] == suite]
        for i, name in enumerate(names):
            _score_line(axes, [row for row in own if row["method"] == name], reductions, i, name)
        for row in own:
            if row["method"] == "blind":
                axes.axhline(row["score"], color=GREY, linewidth=1, linestyle=(0, (4, 3)))
        axes.axhline(100, color=GREY, linewidth=1)
        axes.xaxis.set_major_locator(FixedLocator(range(len(reductions))))
        axes.xaxis.set_major_formatter(
            FuncFormatter(lambda i, _: f"{100 * reductions[int(i)]:.3g} %")
        )
        axes.set_xlim(-0.3, len(reductions) - 0.7)
        _style(axes, suite, "y", bold=suite != MEAN)
    panels[0].set_ylabel("score, % of the dense model's", color=INK, fontsize=9)
    panels[0].set_xlabel("visual tokens gone", loc="left", fontsize=9, color=INK)
    lines = {
        line.get_label(): line for axes in panels for line in axes.get_legend_handles_labels()[0]
    }
    best = sorted(lines, key=lambda name: -_last_score(rows, name))
    figure.legend(
        [lines[name] for name in best], best, loc="outside right center", frameon=False, fontsize=9
    )
    return figure


def _last_score(rows: Rows, name: Any) -> float:
    """Mean score at a method's strongest reduction: the order of the lines at their right end."""
    own = [row for row in rows if row["method"] == name]
    last = max(row["reduction"] for row in own)
    scores = [row["score"] for row in own if row["reduction"] == last]
    return sum(scores) / len(scores)


def _score_line(axes: Axes, rows: Rows, reductions: list[float], i: int, name: str) -> None:
    rows = sorted(rows, key=lambda row: row["reduction"])
    first, shift = name in OURS, 0.02 * (i % 5 - 2)
    place = [reductions.index(row["reduction"]) + shift for row in rows]
    style: dict[str, Any] = {
        "color": COLORS[i % len(COLORS)],
        "marker": MARKERS[(i + i // len(COLORS)) % len(MARKERS)],
        "linestyle": ("-", (0, (5, 2)), (0, (2, 1.5)))[i // len(COLORS) % 3],
        "linewidth": 2.4 if first else 1.3,
        "markersize": 6 if first else 4.5,
        "zorder": 4 if first else 3,
    }
    axes.plot(place, [row["score"] for row in rows], label=name, **style)
    for x, row in zip(place, rows, strict=True):
        if row["ci_low"] is not None:
            axes.plot(
                [x, x],
                [row["ci_low"], row["ci_high"]],
                color=style["color"],
                linewidth=0.8,
                alpha=0.6,
            )


@checked
def draw_auc(rows: Rows, caption: str) -> Figure:
    """Fig. 2: a panel of AUCs for each suite, and one of the position bias."""
    auc = [row for row in rows if row["panel"] == "auc"]
    suites, signals = _distinct(auc, "suite"), _distinct(auc, "signal")
    colors = _signal_colors(signals)
    figure = _page(
        6.6 + 2.1 * len(suites),
        0.4 * len(signals),
        "Which signal knows what a question is about",
        caption,
    )
    panels = figure.subplots(1, len(suites) + 1, width_ratios=[1] * len(suites) + [2.1])
    low = min(
        0.4, min(row["value"] if row["ci_low"] is None else row["ci_low"] for row in auc) - 0.03
    )
    for axes, suite in zip(panels, suites, strict=False):
        axes.axvline(0.5, color=GREY, linewidth=1, linestyle=(0, (3, 3)))
        for row in auc:
            if row["suite"] == suite:
                y, color = signals.index(row["signal"]), colors[row["signal"]]
                if row["ci_low"] is not None:
                    axes.plot([row["ci_low"], row["ci_high"]], [y, y], color=color, linewidth=2.2)
                shape = "D" if row["signal"].endswith(CONTENT) else "o"
                axes.plot(row["value"], y, shape, color=color, markersize=7, markeredgecolor=PAPER)
                _beside(axes, y, f"{row['value']:.2f}", "AUC" if y == 0 else "")
        _rows_of(axes, signals if suite == suites[0] else [""] * len(signals))
        axes.set_xlim(low, 1.0)
        axes.xaxis.set_major_locator(FixedLocator([0, 0.25, 0.5, 0.75, 1]))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:.4g}"))
        _style(axes, suite, "x")
    _position(panels[-1], rows, colors)
    return figure


def _position(axes: Axes, rows: Rows, colors: dict[str, str]) -> None:
    axes.axhline(1, color=GREY, linewidth=1, linestyle=(0, (3, 3)))
    if thumbnail := next(row["value"] for row in rows if row["panel"] == "thumbnail"):
        axes.axvspan(0, thumbnail, color="#f1f2f4", linewidth=0, zorder=0)
        axes.text(0.01, 0.02, "thumbnail", transform=axes.transAxes, fontsize=8, color=GREY)
    for signal in _distinct(rows, "signal"):
        line = [
            (row["position"], row["value"])
            for row in rows
            if (row["panel"], row["signal"]) == ("position", signal)
        ]
        if line:
            truth = signal == TRUTH
            axes.plot(
                *zip(*line, strict=True), label=signal, color=colors.get(signal, SIGNALS[TRUTH]),
                linewidth=3.5 if truth else 1.7, alpha=0.45 if truth else 1, zorder=2 if truth else 3,
            )  # fmt: skip
    axes.set_xlim(0, 1)
    axes.set_ylim(0, axes.get_ylim()[1] * 1.4)
    axes.xaxis.set_major_locator(FixedLocator([0, 0.25, 0.5, 0.75, 1]))
    axes.xaxis.set_major_formatter(
        FuncFormatter(lambda x, _: {0: "first", 1: "last"}.get(x, f"{100 * x:.0f} %"))
    )
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    axes.legend(
        frameon=False, fontsize=8, ncols=2, loc="upper center", handlelength=1.4, columnspacing=1.2
    )
    axes.set_xlabel("place in the image's sequence of visual tokens", fontsize=9, color=INK)
    axes.set_ylabel("score, mean = 1", fontsize=9, color=INK)
    _style(axes, "position bias, all questions", "y")


@checked
def draw_similarity(rows: Rows, caption: str) -> Figure:
    """Fig. 3: a panel for each suite, related tokens over unrelated ones."""
    suites = _distinct(rows, "suite")
    figure = _page(
        max(7.0, 3.3 * len(suites)), 2.8, "Do related tokens resemble the words?", caption
    )
    panels = figure.subplots(1, len(suites), sharex=True, squeeze=False)[0]
    for axes, suite in zip(panels, suites, strict=True):
        for name, color, line in (("unrelated", "#9aa3ad", GREY), ("related", ORANGE, ORANGE)):
            own = [row for row in rows if (row["suite"], row["tokens"]) == (suite, name)]
            edges, heights = (
                [*(r["cosine_from"] for r in own), own[-1]["cosine_to"]],
                [r["density"] for r in own],
            )
            axes.stairs(heights, edges, fill=True, color=color, alpha=0.35)
            axes.stairs(heights, edges, color=line, linewidth=1.4, label=name)
            axes.axvline(own[0]["mean"], color=line, linewidth=1.4, linestyle=(0, (3, 2)))
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_locator(NullLocator())
        axes.xaxis.set_major_locator(MaxNLocator(5))
        _style(axes, suite, None)
        axes.spines["left"].set_visible(False)
    panels[0].legend(
        frameon=False, fontsize=9, handlelength=1.2, title="dashed: mean", title_fontsize=8
    )
    panels[0].set_ylabel("density of tokens", fontsize=9, color=INK)
    panels[0].set_xlabel(
        "cosine with the word that a token resembles most", loc="left", fontsize=9, color=INK
    )
    return figure


@checked
def draw_fewest(rows: Rows, caption: str) -> Figure:
    """Fig. 4: a panel for each suite, a row for each method."""
    suites, names = _distinct(rows, "suite"), _distinct(rows, "method")
    figure = _page(max(7.0, 1.4 + 3.2 * len(suites)), 0.95 + 0.3 * len(names),
                   "Fewest tokens until one is what is asked about", caption)  # fmt: skip
    panels = figure.subplots(1, len(suites), sharex=True, squeeze=False)[0]
    for axes, suite in zip(panels, suites, strict=True):
        for row in rows:
            if row["suite"] == suite:
                y, name = names.index(row["method"]), row["method"]
                color = BLUE if name in OURS else "#a3abb4" if name in DULL else GREY
                axes.plot([row["p10"], row["p90"]], [y, y], color=color, linewidth=1.3)
                axes.plot(
                    [row["p25"], row["p75"]],
                    [y, y],
                    color=color,
                    linewidth=6,
                    alpha=0.55,
                    solid_capstyle="butt",
                )
                axes.plot(
                    row["median"],
                    y,
                    "o",
                    color=color,
                    markersize=7,
                    markeredgecolor=PAPER,
                    zorder=4,
                )
                _beside(
                    axes, y, f"{row['median']} / {row['p90']}", "median / 90 %" if y == 0 else ""
                )
        _rows_of(axes, names if suite == suites[0] else [""] * len(names))
        axes.set_xscale("log")
        axes.set_xlim(0.8, max(row["visual_tokens"] for row in rows))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}"))
        axes.xaxis.set_minor_locator(NullLocator())
        _style(axes, suite, "x")
    panels[0].set_xlabel("visual tokens kept", loc="left", fontsize=9, color=INK)
    return figure


def _page(width: float, height: float, title: str, caption: str) -> Figure:
    """A figure of `height` inches with a heading above and a caption below that."""
    unbroken = re.sub(
        r" (?=[/\[])|(?<=/) |(?<=\d,) (?=\d)|(?<=layer) ", "\N{NO-BREAK SPACE}", caption
    )
    lines = textwrap.wrap(unbroken, int(width * 15.8))
    foot, head = LINE * len(lines) + 0.25, 0.5
    total = foot + height + head
    figure = Figure(figsize=(width, total), dpi=160, layout="constrained", facecolor=PAPER)
    engine: Any = figure.get_layout_engine()
    engine.set(
        rect=(0.1 / width, foot / total, 1 - 0.25 / width, height / total), w_pad=0.06, h_pad=0.04
    )
    edge = 0.14 / width
    figure.text(edge, 1 - 0.16 / total, title, fontsize=13, fontweight="bold", color=INK, va="top")
    text = figure.text(
        edge, 0.12 / total, "\n".join(lines), fontsize=8.5, color=INK, va="bottom", linespacing=1.35
    )
    text.set_in_layout(False)
    return figure


def _style(axes: Axes, title: str, grid: Literal["x", "y"] | None, bold: bool = True) -> None:
    weight, style = ("bold", "normal") if bold else ("normal", "italic")
    axes.set_title(title, loc="left", fontsize=10.5, fontweight=weight, fontstyle=style, color=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(FAINT)
    axes.tick_params(colors=INK, labelsize=8.5, color=FAINT)
    axes.set_axisbelow(True)
    if grid:
        axes.grid(axis=grid, color="#e9ebee", linewidth=0.8)


def _rows_of(axes: Axes, names: list[str]) -> None:
    """One line of the panel for each name, the first on top."""
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)


def _beside(axes: Axes, y: float, text: str, heading: str) -> None:
    """A number at the right of a panel's line, under its heading."""
    place = axes.get_yaxis_transform()
    axes.text(1.03, y, text, transform=place, fontsize=8.5, color=INK, va="center")
    if heading:
        axes.annotate(
            heading, (1.03, 1), (0, 5), "axes fraction", "offset points", fontsize=8, color=GREY
        )


def _signal_colors(signals: list[str]) -> dict[str, str]:
    others = [signal for signal in signals if signal not in SIGNALS]
    return SIGNALS | dict(zip(others, LLM, strict=False))


def _distinct(rows: Rows, column: str) -> list[Any]:
    return list(dict.fromkeys(row[column] for row in rows))
