"""What each budget retains, with intervals, and what was chosen."""

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from adafv.data.sample import BLIND
from adafv.evaluation.plot import COLOURS, FAINT, INK, MARKERS, budget_axis
from adafv.tuning.pick import CHOOSING, REPORTING, Row, is_candidate
from adafv.utils.checks import checked

__all__ = ["draw"]

_APART = 1.035
"""Factor between the points of two methods at one budget, so that their intervals stay apart."""


@checked
def draw(rows: list[Row], min_retention: float, path: Path) -> None:
    """Draw the rows of a tuning: retention and its 95 % interval against the share of tokens kept.

    Points are of the half that the choice is made on; filled ones hold: their interval lies above
    the line. The star is what was chosen, on the other half.
    """
    figure = Figure(figsize=(8, 4.6), dpi=160, layout="constrained", facecolor="white")
    axes = figure.subplots()
    own = [row for row in rows if is_candidate(row)]
    names = list(dict.fromkeys(row["method"] for row in own))
    for i, name in enumerate(names):
        shift = _APART ** (i - (len(names) - 1) / 2)
        _line(
            axes, sorted((r for r in own if r["method"] == name), key=lambda r: r["keep"]), i, shift
        )
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
    if rows[-1]["half"] == REPORTING:
        last = rows[-1]
        _point(axes, last, len(names), label=f"chosen: {last['method']}, on the other half")
    budget_axis(axes, sorted({row["keep"] for row in own}))
    axes.set_xlabel("visual tokens kept", color=INK)
    axes.set_ylabel("right answers, % of the dense model's", color=INK)
    axes.set_title(
        f"{own[0]['n']} questions on {own[0]['images']} images, 95 % intervals; filled: holds",
        loc="left",
        fontsize=10,
        color=INK,
    )
    figure.legend(loc="outside right center", frameon=False, fontsize=9)
    figure.savefig(path)


def _line(axes: Axes, rows: list[Row], index: int, shift: float) -> None:
    colour, marker = COLOURS[index % len(COLOURS)], MARKERS[index % len(MARKERS)]
    keeps, values = [row["keep"] * shift for row in rows], [100 * row["retention"] for row in rows]
    ends = [
        [100 * (row["retention"] - row["ci_low"]) for row in rows],
        [100 * (row["ci_high"] - row["retention"]) for row in rows],
    ]
    axes.errorbar(
        keeps, values, yerr=ends, label=rows[0]["method"], color=colour, marker=marker, markersize=6,
        markerfacecolor="white", linewidth=1.5, elinewidth=1, capsize=2.5, zorder=3,
    )  # fmt: skip
    held = [
        (keep, value) for keep, value, row in zip(keeps, values, rows, strict=True) if row["holds"]
    ]
    axes.plot(
        *zip(*held, strict=True) if held else ([], []),
        color=colour,
        marker=marker,
        markersize=6,
        linestyle="",
        zorder=4,
    )


def _point(axes: Axes, row: Row, beside: int, label: str) -> None:
    value, low, high = (100 * row[name] for name in ("retention", "ci_low", "ci_high"))
    keep = row["keep"] / _APART ** ((beside + 1) / 2)
    axes.errorbar(
        [keep], [value], yerr=[[value - low], [high - value]], label=label, color=INK, marker="*", markersize=14,
        linestyle="", elinewidth=1.5, capsize=4, zorder=5,
    )  # fmt: skip
