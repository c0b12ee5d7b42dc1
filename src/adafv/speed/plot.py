"""Where the time to the first token goes, a bar for each row, and where ideally it would end."""

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from adafv.speed.stages import STAGES
from adafv.utils.checks import checked

__all__ = ["draw"]

# stages are no signals: none of them is blue, orange or black
_COLOURS = dict(zip(STAGES, ("#44aa99", "#882255", "#ddcc77", "#b9bec5"), strict=True))
_STAGE_NAMES = {"vision": "vision tower", "select": "selection", "rebuild": "shorter inputs"}
_METHOD_NAMES = {"eager": "by eager attention", "listed": "by Python lists"}
_INK = "#222222"


@checked
def draw(rows: list[dict[str, Any]], title: str, path: Path) -> None:
    """Draw the rows of `adafv speed`, a panel for each batch, in seconds.

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
        prompts = "1 prompt" if batch == 1 else f"{batch} prompts at once"
        axes.set_title(prompts, loc="left", fontsize=11, fontweight="bold", color=_INK)

    # one legend for all of them
    panels[-1].set_xlabel("seconds to the first token", color=_INK)
    figure.suptitle(title, fontsize=10, color=_INK)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(
        handles,
        labels,
        loc="outside lower center",
        ncols=len(labels),
        frameon=False,
        fontsize=10,
    )
    figure.savefig(path)


def _panel(axes: Axes, rows: list[dict[str, Any]]) -> None:
    positions = range(len(rows))

    # the stages, end to end
    start = [0.0] * len(rows)
    for stage, colour in _COLOURS.items():
        widths = [row[f"{stage}_ms"] / 1000 for row in rows]
        label = _STAGE_NAMES.get(stage, stage)
        axes.barh(positions, widths, left=start, color=colour, label=label, height=0.66)
        start = [before + width for before, width in zip(start, widths, strict=True)]

    # where the first token would come if arithmetic were all
    ideal = [rows[0]["ttft_ms"] / 1000 / row["ideal_speedup"] for row in rows]
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
            name = _METHOD_NAMES.get(row["method"], row["method"])
            names.append(f"{name}, {100 * row['keep']:.3g} %")
        seconds = row["ttft_ms"] / 1000
        # three digits, from milliseconds to minutes
        text = f"{seconds:.1f} s" if seconds >= 10 else f"{seconds:.3g} s"
        if position > 0:
            text += f", {_compared(row['speedup'])} (ideal: {row['ideal_speedup']:.1f})"
        axes.annotate(
            text,
            (max(start[position], ideal[position]), position),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            fontsize=10,
        )

    # the dense row on top, and room for what stands beside the bars
    axes.set_yticks(positions, names, fontsize=10)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.25 * max(start))
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=_INK, labelsize=10)


def _compared(speedup: float) -> str:
    """Say in words how a time compares with that of the dense row."""
    if 0.95 < speedup < 1.05:
        return "as fast"
    if speedup < 1:
        return f"{1 / speedup:.1f} times slower"
    return f"{speedup:.1f} times faster"
