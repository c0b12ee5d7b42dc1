"""What choosing costs with every method, at one number of visual tokens and one budget.

    OMP_NUM_THREADS=1 python benchmarks/speed/choosing.py --out benchmarks/speed/choosing

Random visual tokens stand in for a model's: times say what a method computes, not what it keeps.
Every round visits all methods, in an order that turns.
"""

import argparse
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
    lines = [
        "# What choosing costs with every method",
        "",
        f"    {meta['command']}",
        "",
        f"Milliseconds of `select` for one image of {meta['tokens']:,} random visual tokens "
        f"({layout_of(meta['tokens'])}) of width {meta['width']}, {meta['keep']} kept, "
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
    return "\n".join(lines) + "\n"


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
    meta |= cpu() | {"threads": threads, "versions": versions()}
    write_report(out, meta, rows, page(meta, rows))


if __name__ == "__main__":
    try:
        main()
    except ValueError as problem:
        sys.exit(f"error: {problem}")
