"""What choosing costs with every method, at one number of visual tokens and one budget.

    OMP_NUM_THREADS=1 python benchmarks/speed/choosing.py --out benchmarks/speed/choosing

Random visual tokens stand in for a model's: times say what a method computes, not what it keeps.
Every round visits all methods, in an order that turns.
"""

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from rounds import timed
from selection import layout_of, visual_tokens
from torch import Tensor

from adafv.core.pruner import Pruner
from adafv.core.signals import Signal
from adafv.core.visual_tokens import VisualTokens
from adafv.methods import METHODS, from_spec
from adafv.models.load import device_of, dtype_of
from adafv.utils.files import writable_folder
from adafv.utils.machine import cpu, versions
from adafv.utils.records import command_of, write_report

BESIDES = {"none", "random", "uniform"}
"""Methods that look at no token."""
KEY_WIDTH = 64  # of a head of a tower
ASKED = {"tokens": 2880, "keep": 144, "width": 256, "threads": 1}
"""Where bars were set."""
GREEDY = ("scope", "mmtok", "cdpruner", "divprune")
GREEDY_MS = 200
"""What greedy methods may take."""
OURS = {"adafv", "adafv+", "adafv_released", "t2i"}
"""AdaFV, what became of it, its released form, and its half that reads the question."""
AHEAD = 3
"""How many times as fast as every rival ours were to be."""


@dataclass(frozen=True)
class Row:
    """What `select` of a method takes, in milliseconds.

    Attributes:
        times_adafv, times_adafv_plus: the median as a multiple of AdaFV's and of AdaFV+'s.
    """

    method: str
    median_ms: float
    p95_ms: float
    times_adafv: float
    times_adafv_plus: float


def choosers() -> dict[str, Pruner]:
    """Return the methods that choose among an image's tokens before the language model."""
    found = {}
    for name in METHODS:
        if name in BESIDES:
            continue
        pruner = from_spec(name, keep=0.5)
        if not pruner.layerwise and not pruner.shrinks:
            found[name] = pruner
    return found


def signal(wanted: Signal, count: int, width: int, draw: torch.Generator) -> Tensor:
    """Return random values of the kind that a tower gives: (1, N) or (1, N, d)."""
    if wanted.kind in ("attention", "received"):
        return torch.randn(1, count, generator=draw).softmax(-1)
    depth = KEY_WIDTH if wanted.kind == "keys" else width
    return torch.randn(1, count, depth, generator=draw)


def tokens_for(
    pruner: Pruner, count: int, width: int, device: torch.device, dtype: torch.dtype
) -> VisualTokens:
    """Return an image of random tokens with the signals that a method asks for."""
    tokens = visual_tokens(count, width, device, dtype)
    draw = torch.Generator().manual_seed(count)
    signals = dict(tokens.signals)
    for wanted in sorted(pruner.signals, key=str):
        if wanted not in signals:
            signals[wanted] = signal(wanted, count, width, draw).to(device)
    return replace(tokens, signals=signals)


def calls(
    options: argparse.Namespace, device: torch.device, dtype: torch.dtype
) -> dict[str, Callable[[], Any]]:
    """Return what is timed, by method: `select` of an image's tokens."""
    found = {}
    for name, pruner in choosers().items():
        tokens = tokens_for(pruner, options.tokens, options.width, device, dtype)
        found[name] = partial(pruner.select, tokens, [options.keep])
    return found


def rows_of(times: dict[str, list[float]]) -> list[Row]:
    """Return a row for each method, the fastest first."""
    middle = {name: median(ms) for name, ms in times.items()}
    rows = []
    for name in sorted(times, key=middle.__getitem__):
        row = Row(
            method=name,
            median_ms=middle[name],
            p95_ms=float(np.percentile(times[name], 95)),
            times_adafv=middle[name] / middle["adafv"],
            times_adafv_plus=middle[name] / middle["adafv+"],
        )
        rows.append(row)
    return rows


def page(meta: dict[str, Any], rows: list[Row]) -> str:
    """Return the text of README.md."""
    # as it was when it was measured
    layout = meta.get("layout") or layout_of(meta["tokens"])
    lines = [
        "# What choosing costs with every method",
        "",
        f"    {meta['command']}",
        "",
        f"Milliseconds of `select` for one image of {meta['tokens']:,} random visual tokens "
        f"({layout}) of width {meta['width']}, {meta['keep']} kept, "
        f"{meta['dtype']}, {meta['threads']} thread{'s' if meta['threads'] > 1 else ''} of",
        f"{meta['processor']}: medians and 95th percentiles of {meta['repeats']} rounds. Methods "
        "that rank between layers, shrink the image or look at no token are left out.",
        "",
        "| method | median | p95 | × `adafv` | × `adafv+` |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        lines.append(
            f"| `{row.method}` | {row.median_ms:.1f} ms | {row.p95_ms:.1f} ms | "
            f"{row.times_adafv:.2f} | {row.times_adafv_plus:.2f} |"
        )
    if all(meta[name] == value for name, value in ASKED.items()):
        lines += ["", *_greedy_bar(rows), "", *_ahead_bar(rows)]
    return "\n".join(lines) + "\n"


def _greedy_bar(rows: list[Row]) -> list[str]:
    """Return which greedy methods stay within what they may take."""
    said: dict[bool, list[str]] = {True: [], False: []}
    for row in rows:
        if row.method in GREEDY:
            time = f"`{row.method}` {row.median_ms:.1f} ms (p95 {row.p95_ms:.0f})"
            said[row.median_ms <= GREEDY_MS].append(time)
    lines = [
        f"**Greedy methods within {GREEDY_MS} ms.** Within: {', '.join(said[True]) or 'none'}. "
        f"Beyond: {', '.join(said[False]) or 'none'}."
    ]
    if any("mmtok" in time for time in said[False]):
        lines.append(
            "Before it picks, `mmtok` takes an exponential of each of N² cosines in fp64, and "
            "normalises its rows; `scope` picks from the cosines themselves."
        )
    return lines


def _ahead_bar(rows: list[Row]) -> list[str]:
    """Return which rivals ours are far ahead of, and which not."""
    ahead = []
    near = []
    for row in rows:
        if row.method in OURS:
            continue
        far = min(row.times_adafv, row.times_adafv_plus) >= AHEAD
        (ahead if far else near).append(row)
    lines = [f"**`adafv` and `adafv+` {AHEAD} × ahead of every rival**:"]
    if ahead:
        lines.append(
            f"it holds from `{ahead[0].method}` on, {len(ahead)} methods, which take "
            f"{ahead[0].times_adafv_plus:.1f} to {ahead[-1].times_adafv_plus:,.0f} times as long "
            "as `adafv+`."
        )
    if near:
        named = [
            f"`{row.method}` ({row.times_adafv:.2f}, {row.times_adafv_plus:.2f})" for row in near
        ]
        lines += [
            f"It does not hold against {', '.join(named)}: in brackets × `adafv` and × `adafv+`.",
            "They sort a number or two for each token, merge neighbours, or compare with few "
            "pivots.",
        ]
    return lines


def written(folder: Path) -> str:
    """Return the text of README.md from the results in a folder."""
    found = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    return page(found["meta"], [Row(**row) for row in found["rows"]])


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--tokens", type=int, default=2880, metavar="N", help="visual tokens")
    parser.add_argument("--keep", type=int, default=144, metavar="K", help="tokens that are kept")
    parser.add_argument("--width", type=int, default=256, metavar="D")
    parser.add_argument("--device", metavar="D")
    parser.add_argument("--dtype", metavar="T")
    parser.add_argument("--repeats", type=int, default=20, metavar="N")
    parser.add_argument("--quiet", action="store_true", help="no progress")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Measure, and write results.json, results.csv and README.md."""
    options = parse(arguments)
    device = device_of(options.device)
    dtype = dtype_of(options.dtype, device)
    out = writable_folder(options.out)
    with torch.inference_mode():
        times = timed(calls(options, device, dtype), device, options.repeats, options.quiet)
        rows = rows_of(times)

    threads = torch.get_num_threads()
    script = "benchmarks/speed/choosing.py"
    command = command_of("python", script, arguments=arguments, threads=threads)
    meta: dict[str, Any] = {"command": command, "dtype": str(dtype).removeprefix("torch.")}
    meta |= {name: getattr(options, name) for name in ("tokens", "keep", "width", "repeats")}
    meta |= {"layout": layout_of(options.tokens)}
    meta |= cpu() | {"threads": threads, "versions": versions()}
    write_report(out, meta, rows, page(meta, rows))


if __name__ == "__main__":
    try:
        main()
    except ValueError as problem:
        sys.exit(f"error: {problem}")
