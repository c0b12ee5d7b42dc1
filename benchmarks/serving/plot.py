"""The gains in serving, in three panels."""

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FormatStrFormatter, NullFormatter

from adafv.utils.records import distinct, where

__all__ = ["draw"]

# greys for all tokens, greens that deepen as tokens go: none is the colour of a signal
_COLOURS = ("#888888", "#cccccc", "#a8ddb5", "#43a884", "#00664b", "#cc79a7", "#882255")
_INK = "#222222"


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw requests per second and TTFT by concurrency, and requests that the KV cache holds."""
    rows = where(rows, question="new")
    # a colour for each engine and budget, in the order of the rows
    names = list(dict.fromkeys((row["engine"], row["keep"]) for row in rows))
    figure = Figure(figsize=(10, 4.2), dpi=160, layout="constrained", facecolor="white")
    speed, wait, room = figure.subplots(1, 3, width_ratios=(3, 3, 2))

    # requests per second, against stock vLLM and the ideal
    _bars(speed, rows, names, "speedup", ("speedup_low", "speedup_high"))
    for row in rows:
        at = _position(row, rows, names)
        speed.plot([at - 0.07, at + 0.07], [row["ideal_speedup"]] * 2, color=_INK, linewidth=1.5)
    speed.plot([], [], color=_INK, linewidth=1.5, label="ideal (FLOPs)")
    speed.axhline(1, color=_INK, linewidth=0.6, linestyle=":")
    _title(speed, "requests per second, × stock vLLM", "requests at once")

    # time to the first token
    _bars(wait, rows, names, "ttft_p50_ms", ("ttft_p50_ms", "ttft_p95_ms"), scale=1000)
    # waiting grows with the queue: by orders of magnitude
    wait.set_yscale("log")
    wait.yaxis.set_major_formatter(FormatStrFormatter("%g"))
    wait.yaxis.set_minor_formatter(NullFormatter())
    _title(wait, "time to first token, s: median and p95", "requests at once")

    # the KV cache holds as many whatever the concurrency
    last = where(rows, concurrency=max(distinct(rows, "concurrency")))
    counts = [row["kv_capacity_requests"] for row in last]
    labels = [_label(*name).removesuffix(" kept") for name in names]
    room.bar(range(len(last)), counts, color=_COLOURS[: len(last)], width=0.75)
    for i, count in enumerate(counts):
        room.annotate(str(count), (i, count), ha="center", va="bottom")
    room.set_xticks(range(len(last)), labels, fontsize=9)
    _title(room, "requests in the KV cache", "")
    # one legend for all panels
    handles, labels = speed.get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside lower center", ncols=len(labels), frameon=False, fontsize=10
    )
    figure.savefig(path)


def _bars(
    axes: Axes,
    rows: list[dict[str, Any]],
    names: list[tuple[str, float]],
    column: str,
    reach: tuple[str, str],
    scale: float = 1,
) -> None:
    """Draw a group of bars for each concurrency, with a line from one column to another."""
    for name, colour in zip(names, _COLOURS, strict=False):
        engine, keep = name
        at = []
        heights = []
        low = []
        high = []
        for row in where(rows, engine=engine, keep=keep):
            at.append(_position(row, rows, names))
            heights.append(row[column] / scale)
            low.append(row[reach[0]] / scale)
            high.append(row[reach[1]] / scale)
        axes.bar(at, heights, 0.9 / len(names), color=colour, label=_label(*name))
        # thin, over the bar
        axes.vlines(at, low, high, color=_INK, linewidth=0.8)
    groups = distinct(rows, "concurrency")
    axes.set_xticks(range(len(groups)), list(map(str, groups)))


def _position(
    row: dict[str, Any], rows: list[dict[str, Any]], names: list[tuple[str, float]]
) -> float:
    """Return where a row's bar stands: in its group, around the middle."""
    groups = distinct(rows, "concurrency")
    # bars stand side by side, with a gap between the groups
    turn = names.index((row["engine"], row["keep"])) - (len(names) - 1) / 2
    return groups.index(row["concurrency"]) + 0.95 * turn / len(names)


def _label(engine: str, keep: float) -> str:
    return "stock" if engine == "stock" else f"{100 * keep:.3g} % kept"


def _title(axes: Axes, title: str, below: str) -> None:
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold", color=_INK)
    axes.set_xlabel(below, color=_INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=_INK, labelsize=9)
