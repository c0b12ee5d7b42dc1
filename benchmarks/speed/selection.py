"""The selection overhead: time and memory of `select` over the number of visual tokens.

Operators and waits are counted, too.

    python benchmarks/speed/selection.py --out out/selection

Random visual tokens stand in for a model's: 2,880 of them are laid out as LLaVA-NeXT's thumbnail
and 2 × 2 tiles, other numbers as one crop. Another checkout is measured with
PYTHONPATH=CHECKOUT/src; --methods leaves out what it doesn't have yet.
"""

import argparse
import os
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

# read once, when torch is imported: stderr is the progress bar's
os.environ.setdefault("KINETO_LOG_LEVEL", "99")

import numpy as np
import torch
import torch.nn.functional as F
from counts import counted
from matplotlib.figure import Figure
from rich.box import SIMPLE_HEAD
from rich.table import Table
from torch import Tensor
from tqdm import tqdm

from adafv.cli.options import names_in
from adafv.cli.printing import print_table, quiet
from adafv.core.pruner import Pruner
from adafv.core.signals import SALIENCY
from adafv.core.visual_tokens import VisualTokens
from adafv.families.crop_layout import grid_coordinates
from adafv.methods import from_spec
from adafv.models.load import device_of, dtype_of
from adafv.speed.baselines import BASELINES
from adafv.speed.run import Measurement, plan
from adafv.speed.stages import peak_bytes
from adafv.utils.clock import now
from adafv.utils.files import atomic, writable_folder, write_text
from adafv.utils.records import as_csv, command_of, distinct, row_of, where, write_json
from adafv.viz.palette import colors_of

KEEP = 0.05
WORDS = 64  # text tokens
COLUMNS = 40  # of the grid
EDGE = 24  # tokens of a crop of LLaVA-NeXT
LLAVA_NEXT = 5 * EDGE**2  # visual tokens of its largest image
COUNTS = (1000, 2000, LLAVA_NEXT, 5000, 10_000, 20_000, 50_000, 100_000)
METHODS = ("adafv", "adafv+", "fastervlm", "t2i", "listed")
# columns that a straight line is put through
FITTED = ("select_ms", "peak_bytes")
QUICK = {"counts": [400, 800, 1600], "width": 256, "repeats": 2}


def layout_of(count: int) -> str:
    """Say how so many visual tokens are laid out."""
    return "a thumbnail and 2 × 2 tiles, as in LLaVA-NeXT" if count == LLAVA_NEXT else "one crop"


def coordinates_of(count: int) -> Tensor:
    """Return crop, row and column (N, 3) of visual tokens in the order of their packing."""
    if count != LLAVA_NEXT:
        # row by row
        index = torch.arange(count)
        return torch.stack([torch.zeros_like(index), index // COLUMNS, index % COLUMNS], dim=1)
    thumbnail = F.pad(grid_coordinates(EDGE, EDGE), (1, 0))  # crop 0
    # rows run over both tiles that lie side by side
    in_tiles = grid_coordinates(2 * EDGE, 2 * EDGE)
    row, column = (in_tiles // EDGE).unbind(1)  # of the tile
    tile = 1 + 2 * row + column
    return torch.cat([thumbnail, torch.cat([tile[:, None], in_tiles], dim=1)])


def visual_tokens(count: int, width: int, device: torch.device, dtype: torch.dtype) -> VisualTokens:
    """Return one image of random tokens laid out as `layout_of` says, with random text tokens."""
    draw = torch.Generator(device).manual_seed(count)
    features = torch.randn(1, count, width, generator=draw, device=device)  # (1, N, D)
    text = torch.randn(1, WORDS, width, generator=draw, device=device)  # (1, M, D)
    saliency = torch.randn(1, count, generator=draw, device=device).softmax(-1)  # (1, N)
    return VisualTokens(
        features=features.to(dtype),
        mask=torch.ones(1, count, dtype=torch.bool, device=device),
        counts=(count,),
        signals={SALIENCY: saliency},
        text=text.to(dtype),
        text_mask=torch.ones(1, WORDS, dtype=torch.bool, device=device),
        coordinates=(coordinates_of(count),),
        frames=(1,),
        seeds=(0,),
        layers=32,
    )


@dataclass(frozen=True)
class Row:
    """What `select` of a method took at N visual tokens: median, lowest and highest."""

    method: str
    visual_tokens: int
    kept_tokens: int
    select_ms: float
    low_ms: float
    high_ms: float
    peak_bytes: int


def timed(
    pruners: dict[str, Pruner],
    options: argparse.Namespace,
    device: torch.device,
    dtype: torch.dtype,
) -> list[dict[str, Any]]:
    """Return a row for each method and N.

    Every repetition visits all methods, in an order that turns.
    """
    rows = []
    names = [(name, KEEP) for name in pruners]
    counts = tqdm(options.counts, desc="timed", unit="N", file=sys.stderr, disable=options.quiet)
    for count in counts:
        tokens = visual_tokens(count, options.width, device, dtype)

        # memory first: that warms up, too
        calls = {}
        peaks = {}
        for name, pruner in pruners.items():
            calls[name] = partial(pruner.select, tokens, [pruner.budget(count)])
            peaks[name] = peak_bytes(calls[name], device)

        times: dict[str, list[float]] = {name: [] for name in calls}
        for trial in plan(names, 1, options.repeats):
            start = now(device)
            calls[trial.method]()
            times[trial.method].append(1000 * (now(device) - start))

        # a row for each method, as it stands in the CSV
        for name, ms in times.items():
            row = Row(
                method=name,
                visual_tokens=count,
                kept_tokens=pruners[name].budget(count),
                select_ms=median(ms),
                low_ms=min(ms),
                high_ms=max(ms),
                peak_bytes=peaks[name],
            )
            rows.append(row_of(row, 4))
    return rows


def fit(rows: list[dict[str, Any]], column: str) -> dict[str, float]:
    """Fit a straight line through a column over N.

    Returns:
        Slope for 1,000 tokens, value at 0, r², and the slope of the logarithms.
    """
    x = _column(rows, "visual_tokens")
    y = _column(rows, column)
    # least squares
    slope, base = np.polyfit(x, y, 1)
    found = {
        "per_1000": 1000 * slope,
        "at_0": base,
        "r2": 1 - np.var(y - slope * x - base) / np.var(y),
        "exponent": np.polyfit(np.log(x), np.log(y), 1)[0],
    }
    return {name: float(f"{value:.6g}") for name, value in found.items()}


def _column(rows: list[dict[str, Any]], name: str) -> np.ndarray:
    return np.array([row[name] for row in rows], dtype=float)


def draw(
    rows: list[dict[str, Any]], fits: dict[str, dict[str, dict[str, float]]], title: str, path: Path
) -> None:
    """Draw time and memory over N, both axes logarithmic, each with a power of N through it.

    The power is the slope of the logarithms, as the table has it, so that it is straight here; the
    straight line whose r² the table names passes through zero or below, where these axes end.
    """
    colors = colors_of(fits)
    # one panel for time, one for memory
    figure = Figure(figsize=(9, 4.4), dpi=200, layout="constrained", facecolor="white")
    left, right = figure.subplots(1, 2)
    panels = (
        (left, "select_ms", 1, "ms"),
        (right, "peak_bytes", 2**20, "MiB"),
    )
    for axes, column, scale, unit in panels:
        for index, (name, found) in enumerate(fits.items()):
            colour = colors[name]
            own = where(rows, method=name)
            x = _column(own, "visual_tokens")
            y = _column(own, column)
            axes.plot(
                x,
                y / scale,
                "o",
                color=colour,
                # of those that coincide the lower ones are seen around the upper ones
                markersize=5 + 1.4 * (len(fits) - 1 - index),
                label=f"{name}: N^{found[column]['exponent']:.2f}",
            )

            # least squares of the logarithms: through their means, by the exponent
            exponent = found[column]["exponent"]
            ends = np.array([x.min(), x.max()])
            middle = np.log(y / scale).mean() - exponent * np.log(x).mean()
            axes.plot(ends, np.exp(middle + exponent * np.log(ends)), color=colour, linewidth=1)
        # over two orders of magnitude
        axes.set(xscale="log", yscale="log", xlabel="visual tokens N", ylabel=unit)
        axes.grid(color="#e8e8e8", linewidth=0.8)
        axes.spines[["top", "right"]].set_visible(False)
        # above the points
        axes.margins(y=0.25)
        axes.legend(frameon=False, fontsize=9, loc="upper left")
    left.set_title("selection overhead", loc="left", fontsize=11, fontweight="bold")
    right.set_title("memory beside the tokens, at most", loc="left", fontsize=11, fontweight="bold")
    figure.suptitle(title, fontsize=9)
    figure.savefig(path)


def tables(
    rows: list[dict[str, Any]], fits: dict[str, Any], counts: list[dict[str, Any]], title: str
) -> list[Table]:
    """Return times by N with their lines, and the counts."""
    # times
    sizes = [f"{count:,}" for count in distinct(rows, "visual_tokens")]
    lines = ("ms / 1,000", "r²", "exponent", "MiB / 1,000", "r²", "exponent")
    about = f"Milliseconds of select at N visual tokens, {title}"
    times = _table(about, ("method", *sizes, *lines))
    for name, found in fits.items():
        line = [name]
        for row in where(rows, method=name):
            line.append(f"{row['select_ms']:.3g}")
        for column, scale in (("select_ms", 1), ("peak_bytes", 2**20)):
            fitted = found[column]
            line.append(f"{fitted['per_1000'] / scale:.4g}")
            line.append(f"{fitted['r2']:.4g}")
            line.append(f"{fitted['exponent']:.4g}")
        times.add_row(*line)

    # counts
    count = counts[0]["visual_tokens"]
    columns = [column for column in counts[0] if column != "visual_tokens"]
    work = _table(f"One image of {count:,} visual tokens", tuple(columns))
    for row in counts:
        work.add_row(*(str(row[column]) for column in columns))
    return [times, work]


def _table(title: str, columns: tuple[str, ...]) -> Table:
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    for column in columns:
        table.add_column(column, justify="left" if column in ("method", "stage") else "right")
    return table


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
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
    # a check of the script, not a measurement
    if options.quick:
        vars(options).update(QUICK)
    return options


def title_of(meta: dict[str, Any]) -> str:
    """Return what stands above tables and picture."""
    return (
        f"width {meta['width']}, {meta['words']} words, {meta['keep']:.0%} kept, "
        f"{meta['dtype']}, {meta['machine']['name']}"
    )


def main(arguments: list[str] | None = None) -> None:
    """Measure, write the results, draw and print them."""
    options = parse(arguments)
    device = device_of(options.device)
    dtype = dtype_of(options.dtype, device)
    out = writable_folder(options.out)
    pruners: dict[str, Pruner] = {}
    for name in options.methods:
        if name in BASELINES:
            pruners[name] = BASELINES[name](keep=KEEP)
        else:
            pruners[name] = from_spec(name, keep=KEEP)
    quiet()
    with torch.inference_mode():
        rows = timed(pruners, options, device, dtype)
    # counts need grids of a real model, and take no time
    counts = counted(pruners, options.width, device, dtype)
    fits: dict[str, dict[str, dict[str, float]]] = {}
    for name in pruners:
        own = where(rows, method=name)
        fits[name] = {column: fit(own, column) for column in FITTED}

    # what made them
    settings = Measurement().settings(device, dtype)
    meta = {name: settings[name] for name in ("device", "dtype", "machine", "versions")}
    # as it was typed
    command = command_of("python", "benchmarks/speed/selection.py", arguments=arguments)
    meta |= {
        "command": command,
        "keep": KEEP,
        "words": WORDS,
        "width": options.width,
        "repeats": options.repeats,
        "layout": f"{LLAVA_NEXT:,} tokens are {layout_of(LLAVA_NEXT)}; other numbers are one crop.",
    }
    found = {"meta": meta, "rows": rows, "fits": fits, "counts": counts}
    write_json(out / "selection.json", found)
    write_text(out / "selection.csv", as_csv(rows[0], rows))
    title = title_of(meta)
    with atomic(out / "selection.png") as temporary:
        draw(rows, fits, title, temporary)
    for table in tables(rows, fits, counts, title):
        print_table(table)


if __name__ == "__main__":
    try:
        main()
    except ValueError as problem:
        sys.exit(f"error: {problem}")
