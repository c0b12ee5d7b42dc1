"""Rows of `adafv speed` to be read: a table for the terminal, and one in Markdown."""

from collections.abc import Iterable
from itertools import pairwise
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from adafv.speed.run import DENSE
from adafv.utils.checks import checked

__all__ = ["LEGEND", "NARROW", "markdown", "table", "title"]

RATIOS = (
    ("speedup", "ideal_speedup", "share_of_ideal"), ("prefill_speedup", "prefill_ideal", "prefill_share"),
)  # fmt: skip
LEGEND = (
    "choose: select and rebuild. ideal: ratio of FLOPs. of it: the share reached. bound: the longest of compute, "
    "memory and "
    "launch at this machine's ceilings. pays from: fewest visual tokens at which this share is faster than "
    "all of them (–: it isn't, or the method prunes between layers)"
)
LEFT = ("method", "bound")
BRIEF = (
    "method", "kept", "vision", "choose", "prefill", "TTFT p50", "p95", "× (ideal, of it)", "prefill × (ideal, of it)",
    "KV MiB", "pays from",
)  # fmt: skip
"""What a page has room for."""
NARROW = (
    "peak MiB", "bound", "token", "KV MiB", "p95", "choose", "pays from", "vision", "prefill × (ideal, of it)",
)  # fmt: skip
"""Columns of `table` that go first where there is no room for all."""


@checked
def title(meta: dict[str, Any]) -> str:
    """Shape, how much of it, precision and machine."""
    cut = (
        ""
        if meta["layers"] in (None, meta["of_layers"])
        else f", {meta['layers']} of {meta['of_layers']} LLM layers"
    )
    machine = meta["machine"]
    threads = f", threads: {machine['threads']}" if "threads" in machine else ""
    return f"{meta['shape']}{cut}, random weights, {meta['dtype']}, {machine['name']}{threads}"


@checked
def table(rows: list[dict[str, Any]], meta: dict[str, Any]) -> Table:
    """One line for each row."""
    result = Table(title=f"{title(meta)}. Times in ms", title_justify="left", box=SIMPLE_HEAD)
    for name in _cells(rows[0]):
        result.add_column(name, justify="left" if name in LEFT else "right", no_wrap=True)
    for row, after in pairwise([*rows, {"batch": 0}]):
        result.add_row(*_cells(row).values(), end_section=row["batch"] != after["batch"])
    return result


@checked
def markdown(rows: Iterable[dict[str, Any]], meta: dict[str, Any]) -> str:
    """The same for a page, without what a page has no room for; with the command and the noise
    floor.
    """
    batches = len({row["batch"] for row in rows}) > 1
    names = (*(["batch"] if batches else []), *BRIEF)
    lines = [names, [":--" if name in LEFT else "--:" for name in names]]
    lines += [[_cells(row)[name] for name in names] for row in rows]
    floor = ", ".join(
        (f"batch {batch}: " if batches else "") + f"{low:.2f} to {high:.2f}"
        for batch, (low, _, high) in meta["noise_floor"].items()
    )
    head = [
        f"{title(meta)}; times in ms; dense against dense {floor}:",
        "",
        f"    {meta['command']}",
        "",
    ]
    return "\n".join([*head, *(f"| {' | '.join(line)} |" for line in lines)])


def _cells(row: dict[str, Any]) -> dict[str, str]:
    """What a row says, by column."""
    dense = row["method"] == DENSE
    speedup, prefill = ("" if dense else _ratio(*(row[name] for name in names)) for names in RATIOS)
    return {
        "batch": str(row["batch"]),
        "method": "dense" if dense else row["method"],
        "kept": str(row["kept_tokens"]),
        "vision": _ms(row["vision_ms"]),
        "choose": "" if dense else _ms(row["select_ms"] + row["rebuild_ms"]),
        "prefill": _ms(row["prefill_ms"]),
        "TTFT p50": _ms(row["ttft_ms"]),
        "p95": _ms(row["ttft_p95_ms"]),
        "× (ideal, of it)": speedup,
        "prefill × (ideal, of it)": prefill,
        "token": _ms(row["decode_ms_per_token"]),
        "KV MiB": _mib(row["kv_bytes"]),
        "peak MiB": _mib(row["peak_bytes"]),
        "bound": row["bound"],
        "pays from": "" if dense else "–" if row["break_even"] is None else str(row["break_even"]),
    }


def _ratio(reached: float, ideal: float, share: float) -> str:
    return f"{reached:.2f} ({ideal:.2f}, {share:.0%})"


def _ms(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _mib(value: int | None) -> str:
    return (
        "–"
        if value is None
        else f"{value / 2**20:.3g}"
        if value < 100 * 2**20
        else f"{value / 2**20:.0f}"
    )
