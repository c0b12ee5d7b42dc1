"""Triton's kernels beside the PyTorch forms: time of `select`, and whether both keep the same.

    python benchmarks/speed/kernel_times.py --out out/kernels

Random visual tokens stand in for a model's; narrow ones, since the forms share what hangs on their
width. Where no kernel can run the PyTorch forms are timed alone. Exit status 1 if a kept token
differs.
"""

import argparse
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from rich.box import SIMPLE_HEAD
from rich.table import Table
from selection import visual_tokens
from torch import Tensor

from adafv.cli.printing import print_table
from adafv.methods import from_spec
from adafv.models.load import device_of, dtype_of
from adafv.ops.kernels import SWITCH, wanted
from adafv.speed.run import Measurement
from adafv.utils.clock import now
from adafv.utils.files import writable_folder
from adafv.utils.records import command_of, row_of, write_json

METHODS = ("adafv", "scope")  # one of the mixture, one of greedy coverage
KEEPS = (0.25, 0.05)
COUNTS = (576, 2880, 5760)
WIDTH = 256
QUICK = {"counts": [40], "repeats": 1}


@dataclass(frozen=True)
class Row:
    """Median times of either form at N visual tokens; None: no kernel can run."""

    method: str
    visual_tokens: int
    kept_tokens: int
    torch_ms: float
    triton_ms: float | None
    same: bool | None


def problem_on(device: torch.device) -> str:
    """Say why no kernel can run on a device; empty: one can."""
    os.environ[SWITCH] = "triton"
    try:
        wanted(device)
    except ValueError as problem:
        return str(problem)
    return ""


def timed(
    form: str, select: Callable[[], Any], device: torch.device, repeats: int
) -> tuple[Tensor, float]:
    """Return the kept indices (K,) of one form, and the median time in ms, without the first."""
    os.environ[SWITCH] = form
    kept = select().kept[0]
    times = []
    for _ in range(repeats):
        start = now(device)
        select()
        times.append(1000 * (now(device) - start))
    return kept, median(times)


def measured(
    options: argparse.Namespace, device: torch.device, dtype: torch.dtype, *, kernels: bool
) -> list[Row]:
    """Return a row for each method, N and K."""
    rows = []
    for count in options.counts:
        tokens = visual_tokens(count, WIDTH, device, dtype)
        for name in METHODS:
            for keep in KEEPS:
                pruner = from_spec(name, keep=keep)
                budget = pruner.budget(count)
                select = partial(pruner.select, tokens, [budget])
                kept, torch_ms = timed("torch", select, device, options.repeats)
                triton_ms = None
                same = None
                if kernels:
                    other, triton_ms = timed("triton", select, device, options.repeats)
                    same = torch.equal(kept, other)
                rows.append(Row(name, count, budget, torch_ms, triton_ms, same))
    return rows


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--device", metavar="D")
    parser.add_argument("--dtype", metavar="T")
    parser.add_argument("--repeats", type=int, default=10, metavar="N")
    parser.add_argument("--quick", action="store_true", help="few and narrow tokens: does it run?")
    options = parser.parse_args(arguments, argparse.Namespace(counts=COUNTS))
    if options.quick:
        vars(options).update(QUICK)
    return options


def main(arguments: list[str] | None = None) -> int:
    """Measure, write and print; return the exit status."""
    options = parse(arguments)
    device = device_of(options.device)
    dtype = dtype_of(options.dtype, device)
    out = writable_folder(options.out)
    before = os.environ.get(SWITCH)
    try:
        problem = problem_on(device)
        with torch.inference_mode():
            rows = measured(options, device, dtype, kernels=not problem)
    finally:
        os.environ[SWITCH] = before or ""

    # what made them
    settings = Measurement().settings(device, dtype)
    meta = {name: settings[name] for name in ("device", "dtype", "machine", "versions")}
    command = command_of("python", "benchmarks/speed/kernel_times.py", arguments=arguments)
    meta |= {"command": command, "width": WIDTH, "repeats": options.repeats, "no_kernel": problem}
    entries = [row_of(row, 4) for row in rows]
    write_json(out / "kernels.json", {"meta": meta, "rows": entries})

    table = Table(*(field.name for field in fields(Row)), box=SIMPLE_HEAD)
    for entry in entries:
        table.add_row(*map(str, entry.values()))
    print_table(table)
    if problem:
        print(f"No kernel was run: {problem}")
    return int(any(row.same is False for row in rows))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except ValueError as problem:
        sys.exit(f"error: {problem}")
