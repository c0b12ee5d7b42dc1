"""What serving gains, in three panels."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FormatStrFormatter, NullFormatter

__all__ = ["draw"]

_COLOURS = ("#888888", "#cccccc", "#56B4E9", "#0072B2", "#003f66", "#E69F00", "#009E73")
_INK = "#222222"


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Requests per second and TTFT by concurrency, and how many requests the KV cache holds."""
    rows = [row for row in rows if row["question"] == "new"]
    names = list(dict.fromkeys((row["engine"], row["keep"]) for row in rows))
    figure = Figure(figsize=(12.5, 4.2), dpi=160, layout="constrained", facecolor="white")
    speed, wait, room = figure.subplots(1, 3, width_ratios=(3, 3, 2))
    _bars(
        speed,
        rows,
        names,
        lambda row: row["speedup"],
        lambda row: (row["speedup_low"], row["speedup_high"]),
    )
    for row in rows:
        at = _place(row, rows, names)
        speed.plot([at - 0.07, at + 0.07], [row["ideal_speedup"]] * 2, color=_INK, linewidth=1.5)
    speed.plot([], [], color=_INK, linewidth=1.5, label="ideal (FLOPs)")
    speed.axhline(1, color=_INK, linewidth=0.6, linestyle=":")
    _title(speed, "requests per second, × stock vLLM", "requests at once")
    _bars(
        wait,
        rows,
        names,
        lambda row: row["ttft_p50_ms"] / 1000,
        lambda row: (row["ttft_p50_ms"] / 1000, row["ttft_p95_ms"] / 1000),
    )
    wait.set_yscale("log")
    wait.yaxis.set_major_formatter(FormatStrFormatter("%g"))
    wait.yaxis.set_minor_formatter(NullFormatter())
    _title(wait, "time to first token, s: median and p95", "requests at once")
    last = [row for row in rows if row["concurrency"] == max(r["concurrency"] for r in rows)]
    room.bar(
        range(len(last)),
        [row["kv_capacity_requests"] for row in last],
        color=_COLOURS[: len(last)],
        width=0.75,
    )
    for i, row in enumerate(last):
        room.annotate(
            str(row["kv_capacity_requests"]),
            (i, row["kv_capacity_requests"]),
            ha="center",
            va="bottom",
        )
    room.set_xticks(
        range(len(last)), [_label(*name).removesuffix(" kept") for name in names], fontsize=9
    )
    _title(room, "requests in the KV cache", "")
    handles, labels = speed.get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside lower center", ncols=len(labels), frameon=False, fontsize=10
    )
    figure.savefig(path)


def _bars(
    axes: Axes,
    rows: list[dict[str, Any]],
    names: list[tuple[str, float]],
    height: Callable[[dict[str, Any]], float],
    reach: Callable[[dict[str, Any]], tuple[float, float]],
) -> None:
    for name, colour in zip(names, _COLOURS, strict=False):
        own = [row for row in rows if (row["engine"], row["keep"]) == name]
        at = [_place(row, rows, names) for row in own]
        axes.bar(
            at, [height(row) for row in own], 0.9 / len(names), color=colour, label=_label(*name)
        )
        axes.vlines(at, *zip(*map(reach, own), strict=True), color=_INK, linewidth=0.8)
    groups = list(dict.fromkeys(row["concurrency"] for row in rows))
    axes.set_xticks(range(len(groups)), [str(n) for n in groups])


def _place(
    row: dict[str, Any], rows: list[dict[str, Any]], names: list[tuple[str, float]]
) -> float:
    groups = list(dict.fromkeys(r["concurrency"] for r in rows))
    turn = names.index((row["engine"], row["keep"])) - (len(names) - 1) / 2
    return groups.index(row["concurrency"]) + 0.95 * turn / len(names)


def _label(engine: str, keep: float) -> str:
    return "stock" if engine == "stock" else f"{100 * keep:.3g} % kept"


def _title(axes: Axes, title: str, below: str) -> None:
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold", color=_INK)
    axes.set_xlabel(below, color=_INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=_INK, labelsize=9)
