"""The four figures: rows in, a matplotlib figure out, each with two lines of caption under it."""

import math
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from adafv.analysis.findings import (
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
from adafv.analysis.panels import name_lines, number, page, style
from adafv.analysis.tables import MEAN
from adafv.utils.checks import checked
from adafv.utils.records import Rows, distinct, where
from adafv.viz.figure import FAINT, GREY, INK, PAPER
from adafv.viz.figure import RELEVANCE as ORANGE
from adafv.viz.figure import SALIENCY as BLUE
from adafv.viz.palette import colors_of

__all__ = ["draw_auc", "draw_first_hit", "draw_scores", "draw_similarity"]

YELLOW = "#e69f00"
TEAL = "#00838f"
SKY = "#56b4e9"
SLATE = "#455a64"
MAGENTA = "#c2185b"
SILVER = "#999999"
ACROSS = 6
"""Panels in a row of Fig. 1."""

# a signal has the color of what it is made of, and none of a method
SIGNALS = {
    COSINE: YELLOW,
    COSINE + CONTENT: YELLOW,
    RELEVANCE: ORANGE,
    RELEVANCE + CONTENT: ORANGE,
    TOWER: BLUE,
    CHANCE: SILVER,
    TRUTH: SILVER,
    MUTUAL: SLATE,
    DISTINCT: SLATE,
    **dict.fromkeys(RECEIVED, SKY),
}
LLM = (TEAL, MAGENTA)
"""Of the signals of the language model, whose names depend on its depth."""

OURS = ("adafv", "adafv+")
PLAIN = ("random", "uniform", "pool")


@checked
def draw_scores(rows: Rows, caption: str) -> Figure:
    """Draw Fig. 1: a small panel for each method, the best at the strongest reduction first.

    In each the method's mean over the suites is a broad line, its suites are thin ones, and the
    means of all other methods are grey.
    """
    pruned = [row for row in rows if row["method"] != "blind"]
    suites = distinct(pruned, "suite")
    # one suite, or several without a method in common, have no mean beside them
    shown = MEAN if MEAN in suites else suites[0]
    means = where(pruned, suite=shown)
    reductions = sorted(distinct(pruned, "reduction"))
    # those that don't go as far as the others come last
    names = sorted(
        distinct(means, "method"),
        key=lambda name: (
            _last(means, name)["reduction"] < reductions[-1],
            -_last(means, name)["score"],
        ),
    )
    colors = colors_of(names)

    down = math.ceil(len(names) / ACROSS)
    columns = min(ACROSS, len(names))
    figure = page(1.6 * ACROSS, 0.5 + 1.25 * down, "Score against reduction", caption)
    panels = figure.subplots(down, columns, sharex=True, sharey=True, squeeze=False).flatten()
    for axes, name in zip(panels, names, strict=False):
        _method_panel(axes, rows, shown, name, colors[name], reductions)
        last = _last(means, name)
        title = f"{name} {last['score']:.0f}"
        if last["reduction"] < reductions[-1]:
            title += f" (at {100 * last['reduction']:.3g})"
        style(axes, title, "y")
        axes.set_title(title, loc="left", fontsize=9.5, fontweight="bold" if name in OURS else None)
    for axes in panels[len(names) :]:
        axes.set_visible(False)

    # reductions stand at equal distances, whatever they are
    def label(index: float, _: int) -> str:
        return f"{100 * reductions[int(index)]:.3g} %"

    panels[0].xaxis.set_major_locator(FixedLocator(range(len(reductions))))
    panels[0].xaxis.set_major_formatter(FuncFormatter(label))
    panels[0].set_xlim(-0.3, len(reductions) - 0.7)
    lowest = min(row["score"] for row in rows)
    panels[0].set_ylim(10 * math.floor(lowest / 10), 108)
    panels[0].yaxis.set_major_locator(MaxNLocator(4, steps=[5, 10]))
    figure.supylabel("score, % of the dense model's", fontsize=9.5, color=INK)
    first_below = panels[(down - 1) * columns]
    first_below.set_xlabel("share of the visual tokens gone", loc="left", fontsize=9.5, color=INK)
    return figure


def _method_panel(
    axes: Axes, rows: Rows, shown: str, name: str, color: str, reductions: list[float]
) -> None:
    """Draw one method in front of the means of all others."""
    for row in where(rows, method="blind", suite=shown):
        axes.axhline(row["score"], color=GREY, linewidth=1, linestyle=(0, (4, 3)))
    axes.axhline(100, color=GREY, linewidth=0.8)
    for row_name in distinct(where(rows, suite=shown), "method"):
        if row_name not in (name, "blind"):
            x, y = _points(where(rows, suite=shown, method=row_name), reductions)
            axes.plot(x, y, color=FAINT, linewidth=0.7, zorder=1)

    own = where(rows, method=name)
    for suite in distinct(own, "suite"):
        if suite != shown:
            x, y = _points(where(own, suite=suite), reductions)
            axes.plot(x, y, color=color, linewidth=0.8, alpha=0.55, zorder=3)
    x, y = _points(where(own, suite=shown), reductions)
    axes.plot(x, y, color=color, marker="o", markersize=3.5, linewidth=2.2, zorder=4)
    # the mean of suites has no interval
    for row in where(own, suite=shown):
        if row["ci_low"] is not None:
            at = reductions.index(row["reduction"])
            axes.plot([at, at], [row["ci_low"], row["ci_high"]], color=color, linewidth=0.8)


def _points(rows: Rows, reductions: list[float]) -> tuple[list[int], list[float]]:
    """Return place and score of the rows, from the weakest reduction to the strongest."""
    rows = sorted(rows, key=lambda row: row["reduction"])
    places = [reductions.index(row["reduction"]) for row in rows]
    return places, [row["score"] for row in rows]


def _last(rows: Rows, name: Any) -> dict[str, Any]:
    """Return the row of a method's strongest reduction."""
    return max(where(rows, method=name), key=lambda row: row["reduction"])


@checked
def draw_auc(rows: Rows, caption: str) -> Figure:
    """Draw Fig. 2: a panel of AUCs for each suite, and one of the position bias."""
    auc = where(rows, panel="auc")
    suites = distinct(auc, "suite")
    signals = distinct(auc, "signal")
    colors = _signal_colors(signals)

    # the position bias takes as much room as two suites
    width = 5.4 + 1.6 * len(suites)
    height = 0.36 * len(signals)
    figure = page(width, height, "Which signal knows what a question is about", caption)
    panels = figure.subplots(1, len(suites) + 1, width_ratios=[1] * len(suites) + [2.1])

    # all suites have the same scale, from below chance to 1
    ends = [row["value"] if row["ci_low"] is None else row["ci_low"] for row in auc]
    low = min(0.4, min(ends) - 0.03)
    for axes, suite in zip(panels, suites, strict=False):
        _auc_panel(axes, where(auc, suite=suite), signals, colors)
        # the names of the signals at the first panel alone
        name_lines(axes, signals if suite == suites[0] else [""] * len(signals))
        axes.set_xlim(low, 1.0)
        axes.xaxis.set_major_locator(FixedLocator([0, 0.25, 0.5, 0.75, 1]))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:.4g}"))
        axes.set_xlabel("AUC", fontsize=10, color=INK)
        style(axes, suite, "x")
    _position(panels[-1], rows, colors)
    return figure


def _auc_panel(axes: Axes, rows: Rows, signals: list[str], colors: dict[str, str]) -> None:
    # at 0.5 a signal knows nothing
    axes.axvline(0.5, color=GREY, linewidth=1, linestyle=(0, (3, 3)))
    for row in rows:
        y = signals.index(row["signal"])
        color = colors[row["signal"]]
        if row["ci_low"] is not None:
            axes.plot([row["ci_low"], row["ci_high"]], [y, y], color=color, linewidth=2.2)
        # a diamond: content words alone
        shape = "D" if row["signal"].endswith(CONTENT) else "o"
        axes.plot(row["value"], y, shape, color=color, markersize=7, markeredgecolor=PAPER)
        # without a heading: the axis says what it is, and a suite's name may be long
        number(axes, y, f"{row['value']:.2f}")


def _position(axes: Axes, rows: Rows, colors: dict[str, str]) -> None:
    """Draw each signal along the sequence of visual tokens."""
    # at 1 a score has no bias
    axes.axhline(1, color=GREY, linewidth=1, linestyle=(0, (3, 3)))
    # some tokens, often the first or the last, may show all of the image
    [thumbnail] = where(rows, panel="thumbnail")
    begin = thumbnail["position"] or 0.0
    end = thumbnail["value"]
    if end:
        axes.axvspan(begin, end, color="#f1f2f4", linewidth=0, zorder=0)
        # within the axes
        x, side = (end - 0.01, "right") if end > 0.5 else (begin + 0.01, "left")
        below = axes.get_xaxis_transform()
        axes.text(x, 0.02, "thumbnail", transform=below, ha=side, fontsize=9.5, color=GREY)

    lines: dict[str, tuple[list[float], list[float]]] = {}
    for row in where(rows, panel="position"):
        x, y = lines.setdefault(row["signal"], ([], []))
        x.append(row["position"])
        y.append(row["value"])

    # the truth is a broad line behind the signals
    for signal, (x, y) in lines.items():
        truth = signal == TRUTH
        axes.plot(
            x,
            y,
            label=signal,
            color=colors.get(signal, SIGNALS[TRUTH]),
            linewidth=3.5 if truth else 1.7,
            alpha=0.45 if truth else 1,
            zorder=2 if truth else 3,
        )

    def label(x: float, _: int) -> str:
        if x in (0, 1):
            return "last" if x else "first"
        return f"{100 * x:.0f} %"

    # room for the legend above the lines
    axes.set_xlim(0, 1)
    axes.set_ylim(0, axes.get_ylim()[1] * 1.5)
    axes.xaxis.set_major_locator(FixedLocator([0, 0.25, 0.5, 0.75, 1]))
    axes.xaxis.set_major_formatter(FuncFormatter(label))
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    axes.legend(
        frameon=False,
        fontsize=9.5,
        loc="upper right",
        handlelength=1.4,
        columnspacing=1.2,
    )
    axes.set_xlabel("position among the visual tokens", fontsize=10, color=INK)
    axes.set_ylabel("score, mean = 1", fontsize=10, color=INK)
    style(axes, "position bias, all questions", "y")


@checked
def draw_similarity(rows: Rows, caption: str) -> Figure:
    """Draw Fig. 3: a panel for each suite, related tokens over unrelated ones."""
    suites = distinct(rows, "suite")
    width = max(7.0, 3.3 * len(suites))
    figure = page(width, 2.8, "Do related tokens resemble the words?", caption)
    panels = figure.subplots(1, len(suites), sharex=True, squeeze=False)[0]
    for axes, suite in zip(panels, suites, strict=True):
        # the related ones in front
        for name, color, line in (("unrelated", "#9aa3ad", GREY), ("related", ORANGE, ORANGE)):
            own = where(rows, suite=suite, tokens=name)
            heights = [row["density"] for row in own]
            # one edge more than there are bars
            edges = [row["cosine_from"] for row in own]
            edges.append(own[-1]["cosine_to"])
            axes.stairs(heights, edges, fill=True, color=color, alpha=0.35)
            axes.stairs(heights, edges, color=line, linewidth=1.4, label=name)
            axes.axvline(own[0]["mean"], color=line, linewidth=1.4, linestyle=(0, (3, 2)))
        # densities say nothing as numbers
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_locator(NullLocator())
        axes.xaxis.set_major_locator(MaxNLocator(5))
        style(axes, suite, None)
        axes.spines["left"].set_visible(False)
    panels[0].legend(
        frameon=False, fontsize=9, handlelength=1.2, title="dashed: mean", title_fontsize=9
    )
    panels[0].set_ylabel("density of tokens", fontsize=10, color=INK)
    below = "cosine with the word that a token resembles most"
    panels[0].set_xlabel(below, loc="left", fontsize=10, color=INK)
    return figure


@checked
def draw_first_hit(rows: Rows, caption: str) -> Figure:
    """Draw Fig. 4: a panel for each suite, a row for each method."""
    suites = distinct(rows, "suite")
    names = distinct(rows, "method")
    width = max(7.0, 1.4 + 3.2 * len(suites))
    height = 0.95 + 0.3 * len(names)
    title = "Fewest tokens until one is what is asked about"
    figure = page(width, height, title, caption)
    panels = figure.subplots(1, len(suites), sharex=True, squeeze=False)[0]
    most = max(row["visual_tokens"] for row in rows)
    for axes, suite in zip(panels, suites, strict=True):
        for row in where(rows, suite=suite):
            _quantiles(axes, row, names.index(row["method"]))
        # the names of the methods at the first panel alone
        name_lines(axes, names if suite == suites[0] else [""] * len(names))
        # from one token to all of them
        axes.set_xscale("log")
        axes.set_xlim(0.8, most)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}"))
        axes.xaxis.set_minor_locator(NullLocator())
        style(axes, suite, "x")
    panels[0].set_xlabel("visual tokens kept", loc="left", fontsize=10, color=INK)
    return figure


def _quantiles(axes: Axes, row: dict[str, Any], y: int) -> None:
    """Draw a dot for the median, a bar for the middle half, a line for the middle 80 %."""
    # the rivals alone are grey
    name = row["method"]
    own = name in (*OURS, *PLAIN, "fastervlm", "t2i")
    color = colors_of([name])[name] if own else GREY
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
    number(axes, y, f"{row['median']} / {row['p90']}", "median / 90 %" if y == 0 else "")


def _signal_colors(signals: list[str]) -> dict[str, str]:
    # those of the language model are the only ones without a color of their own
    others = [signal for signal in signals if signal not in SIGNALS]
    return SIGNALS | dict(zip(others, LLM, strict=False))
