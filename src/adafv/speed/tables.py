"""Rows of `adafv speed` to be read: a table for the terminal, and one in Markdown."""

from collections.abc import Iterable
from itertools import pairwise
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from adafv.speed.run import DENSE
from adafv.utils.checks import checked

__all__ = ["LEGEND", "NARROW", "markdown", "table", "title"]

KEPT = "tokens kept"
OVERHEAD = "selection overhead"
SPEEDUP = "× (ideal, % of ideal)"
PREFILL = "prefill × (ideal, % of ideal)"
ROOFLINES = "× of rooflines"
BREAK_EVEN = "break-even"
LEGEND = (
    f"{OVERHEAD}: select and rebuild. ideal: ratio of FLOPs. % of ideal: the share reached. "
    f"{ROOFLINES}: ratio of the least times on this machine's roofline, the fairer ideal of short "
    "prompts. "
    "bound: the longest of compute, memory and launch on this machine's roofline. "
    f"{BREAK_EVEN}: visual tokens from which on this share is faster than all of them "
    "(–: it isn't, or the method prunes between layers)"
)
LEFT = ("method", "bound")
BRIEF = (
    "method",
    KEPT,
    "vision",
    OVERHEAD,
    "prefill",
    "TTFT p50",
    "p95",
    SPEEDUP,
    ROOFLINES,
    PREFILL,
    "KV MiB",
    BREAK_EVEN,
)
"""What a page has room for."""
NARROW = (
    "peak MiB",
    "bound",
    "token",
    "KV MiB",
    "p95",
    OVERHEAD,
    BREAK_EVEN,
    ROOFLINES,
    "vision",
    PREFILL,
)
"""Columns of `table` that go first where there is no room for all."""


@checked
def title(meta: dict[str, Any]) -> str:
    """Return shape, how much of it, precision and machine."""
    # a model cut to a few layers must not pass for all of it
    cut = ""
    if meta["layers"] not in (None, meta["of_layers"]):
        cut = f", {meta['layers']} of {meta['of_layers']} LLM layers"
    machine = meta["machine"]
    threads = f", threads: {machine['threads']}" if "threads" in machine else ""
    return f"{meta['shape']}{cut}, random weights, {meta['dtype']}, {machine['name']}{threads}"


@checked
def table(rows: list[dict[str, Any]], meta: dict[str, Any]) -> Table:
    """Return a table for the terminal, one line for each row."""
    result = Table(title=f"{title(meta)}. Times in ms", title_justify="left", box=SIMPLE_HEAD)
    dense = _dense(rows)
    for name in _shown(rows[0], dense):
        result.add_column(name, justify="left" if name in LEFT else "right", no_wrap=True)

    # a rule wherever the number of prompts changes
    for row, after in pairwise([*rows, {"batch": 0}]):
        result.add_row(*_shown(row, dense).values(), end_section=row["batch"] != after["batch"])
    return result


@checked
def markdown(rows: Iterable[dict[str, Any]], meta: dict[str, Any]) -> str:
    """Return the same for a page: fewer columns, with the command and the noise floor."""
    rows = list(rows)
    batches = len({row["batch"] for row in rows}) > 1
    names = ("batch", *BRIEF) if batches else BRIEF

    # the table: text to the left, numbers to the right
    lines = [list(names), [":--" if name in LEFT else "--:" for name in names]]
    dense = _dense(rows)
    for row in rows:
        shown = _shown(row, dense)
        lines.append([shown[name] for name in names])

    # above it: how noisy the machine was, and how to repeat it
    floors = []
    for batch, (low, _, high) in meta["noise_floor"].items():
        about = f"batch {batch}: " if batches else ""
        floors.append(f"{about}{low:.2f} to {high:.2f}")
    head = [
        f"{title(meta)}; times in ms; dense against dense {', '.join(floors)}:",
        "",
        f"    {meta['command']}",
        "",
    ]
    return "\n".join([*head, *(f"| {' | '.join(line)} |" for line in lines)])


def _dense(rows: Iterable[dict[str, Any]]) -> dict[int, float]:
    """Return the least TTFT in ms that the roofline allows with all tokens, by batch."""
    return {row["batch"]: _least_ms(row) for row in rows if row["method"] == DENSE}


def _least_ms(row: dict[str, Any]) -> float:
    # results of earlier versions have the share alone, in four digits
    return row.get("least_ms") or row["share_of_ceiling"] * row["ttft_ms"]


def _shown(row: dict[str, Any], dense: dict[int, float]) -> dict[str, str]:
    """Return what a row says, by column."""
    pruned = row["method"] != DENSE
    shown = {
        "batch": str(row["batch"]),
        "method": row["method"] if pruned else "dense",
        KEPT: str(row["kept_tokens"]),
        "vision": _ms(row["vision_ms"]),
        # what compares with the dense model is empty in its own line
        OVERHEAD: "",
        "prefill": _ms(row["prefill_ms"]),
        "TTFT p50": _ms(row["ttft_ms"]),
        "p95": _ms(row["ttft_p95_ms"]),
        SPEEDUP: "",
        ROOFLINES: "",
        PREFILL: "",
        "token": _ms(row["decode_ms_per_token"]),
        "KV MiB": _mib(row["kv_bytes"]),
        "peak MiB": _mib(row["peak_bytes"]),
        "bound": row["bound"],
        BREAK_EVEN: "",
    }
    if pruned:
        shown[OVERHEAD] = _ms(row["select_ms"] + row["rebuild_ms"])
        shown[SPEEDUP] = _ratio(row["speedup"], row["ideal_speedup"], row["share_of_ideal"])
        least = _least_ms(row)
        shown[ROOFLINES] = f"{dense[row['batch']] / least:.2f}" if least else "–"
        shown[PREFILL] = _ratio(row["prefill_speedup"], row["prefill_ideal"], row["prefill_share"])
        shown[BREAK_EVEN] = "–" if row["break_even"] is None else str(row["break_even"])
    return shown


def _ratio(reached: float, ideal: float, share: float) -> str:
    return f"{reached:.2f} ({ideal:.2f}, {share:.0%})"


def _ms(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _mib(value: int | None) -> str:
    if value is None:
        return "–"
    # three digits say all that a measurement can
    mib = value / 2**20
    return f"{mib:.3g}" if mib < 100 else f"{mib:.0f}"
