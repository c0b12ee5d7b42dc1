"""Where the time to the first token goes, one bar for each row, and where it would end if
arithmetic were all.
"""

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from adafv.speed.stages import STAGES
from adafv.utils.checks import checked

__all__ = ["draw"]

_COLOURS = dict(zip(STAGES, ("#56B4E9", "#CC79A7", "#E69F00", "#0072B2"), strict=True))
_INK = "#222222"


@checked
def draw(rows: list[dict[str, Any]], title: str, path: Path) -> None:
    """Draw the rows of `adafv speed`: a panel for each batch; a black tick is dense TTFT over the
    ideal speed-up.
    """
    batches = list(dict.fromkeys(row["batch"] for row in rows))
    groups = [[row for row in rows if row["batch"] == batch] for batch in batches]
    figure = Figure(
        figsize=(9, 1.4 + 0.42 * len(rows) + 0.5 * len(groups)), dpi=160, layout="constrained"
    )
    panels = figure.subplots(
        len(groups), 1, squeeze=False, gridspec_kw={"height_ratios": [*map(len, groups)]}
    )[:, 0]
    for axes, batch, group in zip(panels, batches, groups, strict=True):
        _panel(axes, group)
        axes.set_title(f"{batch} at once", loc="left", fontsize=10, fontweight="bold", color=_INK)
    panels[-1].set_xlabel("ms to the first token", color=_INK)
    figure.suptitle(title, fontsize=9, color=_INK)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside lower center", ncols=len(labels), frameon=False, fontsize=9
    )
    figure.savefig(path)


def _panel(axes: Axes, rows: list[dict[str, Any]]) -> None:
    names = [
        "dense" if row["method"] == "none" else f"{row['method']}, {100 * row['keep']:.3g} %"
        for row in rows
    ]
    places = range(len(rows))
    start = [0.0] * len(rows)
    for stage, colour in _COLOURS.items():
        widths = [row[f"{stage}_ms"] for row in rows]
        axes.barh(places, widths, left=start, color=colour, label=stage, height=0.66)
        start = [a + b for a, b in zip(start, widths, strict=True)]
    ideal = [rows[0]["ttft_ms"] / row["ideal_speedup"] for row in rows]
    axes.plot(ideal, places, linestyle="", marker="|", markersize=17, color="black", label="ideal")
    for place, row, end in zip(places, rows, map(max, start, ideal), strict=True):
        text = (
            f"{row['speedup']:.2f}× ({row['share_of_ideal']:.0%} of ideal)"
            if place
            else f"{row['ttft_ms']:,.0f} ms"
        )
        axes.annotate(
            text, (end, place), xytext=(5, 0), textcoords="offset points", va="center", fontsize=8
        )
    axes.set_yticks(places, names, fontsize=9)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.25 * max(start))
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=_INK, labelsize=9)
