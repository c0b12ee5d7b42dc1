"""What choosing costs: time and memory of `select` over the number of visual tokens; operators and
waits.

    python benchmarks/speed/selection.py --out out/selection

Random visual tokens stand in for a model's. Another checkout is measured with
PYTHONPATH=CHECKOUT/src; --methods leaves out what it doesn't have yet.
"""

import argparse
import json
import os
import shlex
import sys
from functools import partial
from itertools import cycle
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

# read once, when torch is imported: stderr is the progress bar's
os.environ.setdefault("KINETO_LOG_LEVEL", "99")

import numpy as np
import torch
from counts import counted
from matplotlib.figure import Figure
from rich.box import SIMPLE_HEAD
from rich.table import Table
from tqdm import tqdm

from adafv.cli.options import names_in, print_table, quiet
from adafv.core.pruner import Pruner
from adafv.core.signals import SALIENCY
from adafv.core.visual_tokens import VisualTokens
from adafv.methods import from_spec
from adafv.models.load import device_of, dtype_of
from adafv.speed import baselines as peers
from adafv.speed.roofline import wait
from adafv.speed.run import Measurement, plan
from adafv.speed.stages import peak_bytes
from adafv.utils.files import atomic, writable_folder, write_text
from adafv.utils.records import as_csv

KEEP, WORDS, COLUMNS = 0.05, 64, 40
COUNTS = (1000, 2000, 2880, 5000, 10_000, 20_000, 50_000, 100_000)
METHODS = ("adafv", "adafv+", "fastervlm", "t2i", "listed")
FITTED = ("select_ms", "peak_bytes")
QUICK = {"counts": [400, 800, 1600], "width": 256, "repeats": 2}
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9")


def visual_tokens(count: int, width: int, device: torch.device, dtype: torch.dtype) -> VisualTokens:
    """One image, or clip, of random tokens on a grid, and a question of random words."""
    draw = torch.Generator(device).manual_seed(count)
    features, text = (
        torch.randn(1, n, width, generator=draw, device=device).to(dtype) for n in (count, WORDS)
    )
    place = torch.arange(count)
    return VisualTokens(
        features=features,
        mask=torch.ones(1, count, dtype=torch.bool, device=device),
        counts=(count,),
        signals={SALIENCY: torch.randn(1, count, generator=draw, device=device).softmax(-1)},
        text=text,
        text_mask=torch.ones(1, WORDS, dtype=torch.bool, device=device),
        coordinates=(
            torch.stack([torch.zeros_like(place), place // COLUMNS, place % COLUMNS], dim=1),
        ),
        seeds=(0,),
        layers=32,
    )


def timed(
    pruners: dict[str, Pruner],
    options: argparse.Namespace,
    device: torch.device,
    dtype: torch.dtype,
) -> list[dict[str, Any]]:
    """A row for each method and N. Every repetition visits all methods, in an order that turns."""
    rows = []
    for count in tqdm(
        options.counts, desc="timed", unit="N", file=sys.stderr, disable=options.quiet
    ):
        tokens = visual_tokens(count, options.width, device, dtype)
        calls = {
            name: partial(pruner.select, tokens, [pruner.budget(count)])
            for name, pruner in pruners.items()
        }
        # and they are warm now
        peaks = {name: peak_bytes(call, device) for name, call in calls.items()}
        times: dict[str, list[float]] = {name: [] for name in calls}
        for cell in plan([(name, KEEP) for name in calls], 1, options.repeats):
            wait(device)
            start = perf_counter()
            calls[cell.method]()
            wait(device)
            times[cell.method].append(1000 * (perf_counter() - start))
        for name, ms in times.items():
            row = {
                "method": name,
                "visual_tokens": count,
                "kept_tokens": pruners[name].budget(count),
            }
            found = {"select_ms": median(ms), "low_ms": min(ms), "high_ms": max(ms)}
            rows.append(
                row | {k: round(x, 4) for k, x in found.items()} | {"peak_bytes": peaks[name]}
            )
    return rows


def fit(rows: list[dict[str, Any]], column: str) -> dict[str, float]:
    """A straight line through a column over N: slope for 1,000 tokens, r²; and the slope of the
    logarithms.
    """
    x, y = (
        np.array([row[name] for row in rows], dtype=float) for name in ("visual_tokens", column)
    )
    slope, base = np.polyfit(x, y, 1)
    found = {
        "per_1000": 1000 * slope,
        "at_0": base,
        "r2": 1 - np.var(y - slope * x - base) / np.var(y),
        "exponent": np.polyfit(np.log(x), np.log(y), 1)[0],
    }
    return {name: float(f"{value:.6g}") for name, value in found.items()}


def draw(
    rows: list[dict[str, Any]], fits: dict[str, dict[str, dict[str, float]]], title: str, path: Path
) -> None:
    """Time and memory over N, both axes logarithmic, with the straight lines through them."""
    figure = Figure(figsize=(11, 4.8), dpi=160, layout="constrained", facecolor="white")
    left, right = figure.subplots(1, 2)
    for axes, column, scale, unit in zip(
        (left, right), FITTED, (1, 2**20), ("ms", "MiB"), strict=True
    ):
        for (name, found), colour in zip(fits.items(), cycle(COLOURS), strict=False):
            own = [row for row in rows if row["method"] == name]
            x, y = (
                np.array([row[c] for row in own], dtype=float) for c in ("visual_tokens", column)
            )
            line, grid = found[column], np.geomspace(x.min(), x.max(), 99)
            label = f"{name}: r² {line['r2']:.4f}, N^{line['exponent']:.2f}"
            axes.plot(
                grid,
                (line["at_0"] + line["per_1000"] * grid / 1000) / scale,
                color=colour,
                linewidth=1,
            )
            axes.plot(x, y / scale, "o", color=colour, markersize=5, label=label)
        axes.set(xscale="log", yscale="log", xlabel="visual tokens N", ylabel=unit)
        axes.grid(color="#e8e8e8", linewidth=0.8)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=8)
    left.set_title("time to choose", loc="left", fontsize=11, fontweight="bold")
    right.set_title("memory beside the tokens, at most", loc="left", fontsize=11, fontweight="bold")
    figure.suptitle(title, fontsize=9)
    figure.savefig(path)


def tables(
    rows: list[dict[str, Any]], fits: dict[str, Any], counts: list[dict[str, Any]], title: str
) -> list[Table]:
    """Times by N, with their lines, and what was counted."""
    sizes = list(dict.fromkeys(row["visual_tokens"] for row in rows))
    times = _table(
        f"Milliseconds of select at N visual tokens, {title}",
        (
            "method",
            *(f"{n:,}" for n in sizes),
            "ms / 1,000",
            "r²",
            "exponent",
            "MiB / 1,000",
            "r²",
            "exponent",
        ),
    )
    for name, found in fits.items():
        ms, memory = found["select_ms"], found["peak_bytes"]
        own = [f"{row['select_ms']:.3g}" for row in rows if row["method"] == name]
        lines = [(ms["per_1000"], ms), (memory["per_1000"] / 2**20, memory)]
        times.add_row(
            name, *own, *(f"{x:.4g}" for slope, f in lines for x in (slope, f["r2"], f["exponent"]))
        )
    columns = [column for column in counts[0] if column not in ("method", "stage", "visual_tokens")]
    work = _table(
        f"One image of {counts[0]['visual_tokens']:,} visual tokens",
        ("method", "stage", *columns),
    )
    for row in counts:
        work.add_row(row["method"], row["stage"], *(str(row[column]) for column in columns))
    return [times, work]


def _table(title: str, columns: tuple[str, ...]) -> Table:
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    for column in columns:
        table.add_column(column, justify="left" if column in ("method", "stage") else "right")
    return table


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--methods", type=names_in, default=METHODS, metavar="M,M,…")
    parser.add_argument("--device", metavar="D")
    parser.add_argument("--dtype", metavar="T")
    parser.add_argument("--repeats", type=int, default=5, metavar="N")
    parser.add_argument("--quick", action="store_true", help="few and narrow tokens: does it run?")
    parser.add_argument("--quiet", action="store_true", help="no progress")
    options = parser.parse_args(arguments, argparse.Namespace(counts=COUNTS, width=4096))
    if options.quick:
        vars(options).update(QUICK)
    return options


def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    device = device_of(options.device)
    dtype = dtype_of(options.dtype, device)
    out = writable_folder(options.out)
    pruners = {
        m: peers.Listed(keep=KEEP) if m == "listed" else from_spec(m, keep=KEEP)
        for m in options.methods
    }
    quiet()
    with torch.inference_mode():
        rows = timed(pruners, options, device, dtype)
    counts = counted(pruners, options.width, device, dtype)
    own = {name: [row for row in rows if row["method"] == name] for name in pruners}
    fits = {name: {column: fit(own[name], column) for column in FITTED} for name in pruners}
    settings = Measurement().settings(device, dtype)
    meta = {name: settings[name] for name in ("device", "dtype", "machine", "versions")}
    command = shlex.join(["python", "benchmarks/speed/selection.py", *(arguments or sys.argv[1:])])
    meta |= {
        "command": command,
        "keep": KEEP,
        "words": WORDS,
        "width": options.width,
        "repeats": options.repeats,
    }
    found = {"meta": meta, "rows": rows, "fits": fits, "counts": counts}
    write_text(out / "selection.json", json.dumps(found, indent=1) + "\n")
    write_text(out / "selection.csv", as_csv(rows[0], rows))
    title = f"width {options.width}, {WORDS} words, {KEEP:.0%} kept, {meta['dtype']}, {meta['machine']['name']}"
    with atomic(out / "selection.png") as temporary:
        draw(rows, fits, title, temporary)
    for table in tables(rows, fits, counts, title):
        print_table(table)


if __name__ == "__main__":
    try:
        main()
    except ValueError as problem:
        sys.exit(f"error: {problem}")
