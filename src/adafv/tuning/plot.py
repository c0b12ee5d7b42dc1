"""Retention at each budget, with intervals, and the choice."""

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from adafv.data.sample import BLIND
from adafv.evaluation.plot import FAINT, INK, MARKERS, budget_axis, save
from adafv.tuning.pick import CHOOSING, REPORTING, Row, is_candidate
from adafv.utils.checks import checked
from adafv.viz.palette import colors_of

__all__ = ["draw"]

_SPREAD = 1.035
"""Factor between the points of two methods at one budget, so that their intervals don't overlap."""


@checked
def draw(rows: list[Row], min_retention: float, path: Path) -> None:
    """Draw the rows of a tuning: retention and its 95 % interval against the share of tokens kept.

    Points are of the half that the choice is made on; filled ones hold: their interval lies above
    the line. The star is what was chosen, on the other half.
    """
    figure = Figure(figsize=(8, 4.6), dpi=160, layout="constrained", facecolor="white")
    axes = figure.subplots()
    candidates = list(filter(is_candidate, rows))
    by_method: dict[str, list[Row]] = {}
    for row in candidates:
        by_method.setdefault(row["method"], []).append(row)

    # a line for each method, side by side around the budget
    colors = colors_of(by_method)
    for i, (name, own) in enumerate(by_method.items()):
        shift = _SPREAD ** (i - (len(by_method) - 1) / 2)
        marker = MARKERS[i % len(MARKERS)]
        _line(axes, sorted(own, key=lambda row: row["keep"]), colors[name], marker, shift)
    _bounds(axes, rows, min_retention)

    # the choice, on the half that had no say in it
    last = rows[-1]
    if last["half"] == REPORTING:
        label = f"chosen: {last['method']}, on the other half"
        _point(axes, last, len(by_method), label)

    _labels(axes, candidates)
    figure.legend(loc="outside right center", frameon=False, fontsize=9)
    save(figure, path)


def _bounds(axes: Axes, rows: list[Row], min_retention: float) -> None:
    """Draw the two lines between which lies what pruning may lose."""
    blind = next(row for row in rows if row["half"] == CHOOSING and row["method"] == BLIND)
    axes.axhline(
        100 * blind["retention"],
        color=FAINT,
        linewidth=1.1,
        linestyle=(0, (4, 3)),
        label="without the image",
    )
    axes.axhline(
        100 * min_retention,
        color=INK,
        linewidth=1.1,
        label=f"asked for: {100 * min_retention:.4g} %",
    )


def _labels(axes: Axes, candidates: list[Row]) -> None:
    """Name the axes, with ticks at every budget that was tried, and say on what it was."""
    budget_axis(axes, sorted({row["keep"] for row in candidates}))
    axes.set_xlabel("visual tokens kept", color=INK)
    axes.set_ylabel("right answers, % of the dense model's", color=INK)
    # all rows of a half are on the same questions
    first = candidates[0]
    axes.set_title(
        f"{first['n']} questions on {first['images']} images, 95 % intervals; filled: holds",
        loc="left",
        fontsize=10,
        color=INK,
    )


def _line(axes: Axes, rows: list[Row], colour: str, marker: str, shift: float) -> None:
    """Draw the points of a method with their intervals; those that hold are filled."""
    keeps = []
    values = []
    below = []
    above = []
    for row in rows:
        keeps.append(row["keep"] * shift)
        values.append(100 * row["retention"])
        below.append(100 * (row["retention"] - row["ci_low"]))
        above.append(100 * (row["ci_high"] - row["retention"]))
    axes.errorbar(
        keeps,
        values,
        yerr=[below, above],
        label=rows[0]["method"],
        color=colour,
        marker=marker,
        markersize=6,
        markerfacecolor="white",
        linewidth=1.5,
        elinewidth=1,
        capsize=2.5,
        zorder=3,
    )

    # over the hollow ones
    for keep, value, row in zip(keeps, values, rows, strict=True):
        if row["holds"]:
            axes.plot(keep, value, color=colour, marker=marker, markersize=6, zorder=4)


def _point(axes: Axes, row: Row, index: int, label: str) -> None:
    """Draw the choice as a star, beside the points of the methods."""
    # error bars are lengths, not ends
    value = 100 * row["retention"]
    below = value - 100 * row["ci_low"]
    above = 100 * row["ci_high"] - value
    axes.errorbar(
        [row["keep"] / _SPREAD ** ((index + 1) / 2)],
        [value],
        yerr=[[below], [above]],
        label=label,
        color=INK,
        marker="*",
        markersize=14,
        linestyle="",
        elinewidth=1.5,
        capsize=4,
        zorder=5,
    )
