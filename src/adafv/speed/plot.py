"""Where the time to the first token goes, a bar for each row, and where ideally it would end."""

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
    """Draw the rows of `adafv speed`, a panel for each batch.

    A black tick is dense TTFT over the ideal speed-up.
    """
    groups: dict[int, list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(row["batch"], []).append(row)

    # panels as high as their rows are many
    height = 1.4 + 0.42 * len(rows) + 0.5 * len(groups)
    figure = Figure(figsize=(9, height), dpi=160, layout="constrained")
    ratios = {"height_ratios": list(map(len, groups.values()))}
    panels = figure.subplots(len(groups), 1, squeeze=False, gridspec_kw=ratios)[:, 0]
    for axes, (batch, group) in zip(panels, groups.items(), strict=True):
        _panel(axes, group)
        axes.set_title(f"{batch} at once", loc="left", fontsize=10, fontweight="bold", color=_INK)

    # one legend for all of them
    panels[-1].set_xlabel("ms to the first token", color=_INK)
    figure.suptitle(title, fontsize=9, color=_INK)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(
        handles,
        labels,
        loc="outside lower center",
        ncols=len(labels),
        frameon=False,
        fontsize=9,
    )
    figure.savefig(path)


def _panel(axes: Axes, rows: list[dict[str, Any]]) -> None:
    positions = range(len(rows))

    # the stages, end to end
    start = [0.0] * len(rows)
    for stage, colour in _COLOURS.items():
        widths = [row[f"{stage}_ms"] for row in rows]
        axes.barh(positions, widths, left=start, color=colour, label=stage, height=0.66)
        start = [before + width for before, width in zip(start, widths, strict=True)]

    # where the first token would come if arithmetic were all
    ideal = [rows[0]["ttft_ms"] / row["ideal_speedup"] for row in rows]
    axes.plot(
        ideal,
        positions,
        linestyle="",
        marker="|",
        markersize=17,
        color="black",
        label="ideal",
    )

    # the dense row gives the time, all others how much faster they are
    names = []
    for position, row in enumerate(rows):
        if row["method"] == "none":
            names.append("dense")
        else:
            names.append(f"{row['method']}, {100 * row['keep']:.3g} %")
        text = f"{row['speedup']:.2f}× ({row['share_of_ideal']:.0%} of ideal)"
        if position == 0:
            text = f"{row['ttft_ms']:,.0f} ms"
        axes.annotate(
            text,
            (max(start[position], ideal[position]), position),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
        )

    # the dense row on top, and room for what stands beside the bars
    axes.set_yticks(positions, names, fontsize=9)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.25 * max(start))
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=_INK, labelsize=9)
