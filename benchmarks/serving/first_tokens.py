"""How soon first tokens come in a burst, by which visual tokens count of what a step encodes.

    python benchmarks/serving/first_tokens.py --out benchmarks/serving/bursts

Stock vLLM beside adafv twice: as vLLM counts, tokens that are kept, and as `adafv serve` has it,
all of them. Resumes an interrupted run.
"""

import argparse
import contextlib
import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Any

import numpy as np
from client import WORDS, Client, Trial
from servers import Server, Watch
from serving_options import DENSE, add_options, machine, numbers
from sessions import Turn, compared, next_session, todo, turn_of
from shapes import SHAPES
from tqdm import tqdm

from adafv.speed.log import Log
from adafv.utils.machine import versions
from adafv.utils.records import command_of, write_report

ENGINES = {"stock": "all", "kept": "those kept", "all": "all"}
"""Which visual tokens count of what a step encodes."""
QUICK = {"shape": "tiny", "keep": [0.25], "concurrency": [4], "repeats": 1, "answer": 4}

Record = dict[str, Any]


@dataclass(frozen=True)
class Row:
    """An engine at a budget, with so many requests at once.

    Percentiles are over all requests of all repetitions, other numbers medians over repetitions.

    Attributes:
        engine: see `ENGINES`.
        burst_p50_ms: of TTFT of those that came first, all at once.
        speedup, ttft_speedup, burst_speedup: against stock vLLM in the same repetition of the same
            session.
        others: cores that other programs kept busy, mean.
    """

    concurrency: int
    engine: str
    keep: float
    repeats: int
    requests: int
    requests_per_s: float
    ttft_p50_ms: float
    ttft_p95_ms: float
    burst_p50_ms: float
    tpot_p50_ms: float
    speedup: float
    ttft_speedup: float
    burst_speedup: float
    others: float


def plan(options: argparse.Namespace) -> Iterator[Trial]:
    """Yield all trials; every other repetition goes the other way round."""
    chosen = [("stock", DENSE)]
    for keep in options.keep:
        chosen += [("kept", keep), ("all", keep)]
    for repeat in range(options.repeats):
        for concurrency in options.concurrency:
            for engine, keep in chosen:
                yield Trial(repeat, concurrency, engine, keep)
        chosen.reverse()


def measure(options: argparse.Namespace, log: Log, trials: list[Trial]) -> None:
    """Start the servers, and add a line for each trial."""
    shape = SHAPES[options.shape]
    with tempfile.TemporaryDirectory() as temporary, contextlib.ExitStack() as stack:
        folder = Path(temporary)
        model = shape.save(folder / "model")
        servers = {}
        for engine in ENGINES:
            servers[engine] = Server(
                model,
                plugin=engine != "stock",
                device="cpu",
                dtype=options.dtype,
                context=shape.visual_tokens(DENSE) + WORDS + options.answer + 64,
                kv_gib=options.kv_gib,
                share=1.0,
                budget=engine == "all",
            )
            stack.callback(servers[engine].close)
        client = Client(folder, model, shape, options.answer, options.method)
        with ThreadPoolExecutor() as together:
            list(together.map(Server.wait, servers.values()))

        # warm up, on images that no trial asks about
        seeds = np.random.default_rng()
        for engine, keep in dict.fromkeys((trial.engine, trial.keep) for trial in trials):
            client.run(servers[engine], Trial(-1, 4, engine, keep), 4, int(seeds.integers(2**32)))

        session = next_session(log.records)
        for trial in tqdm(trials, desc="measured", unit="row", disable=options.quiet):
            requests = max(10, 2 * trial.concurrency)
            with Watch(servers[trial.engine]) as watch:
                found = client.run(
                    servers[trial.engine], trial, requests, int(seeds.integers(2**32))
                )
            record = {
                "session": session,
                **trial._asdict(),
                "requests": found["completed"],
                "seconds": round(found["duration"], 4),
                "ttft_ms": [round(1000 * seconds, 2) for seconds in found["ttfts"]],
                "tpot_ms": round(float(found["median_tpot_ms"]), 3),
                "others": watch.others,
            }
            log.append([record])


def rows_of(records: list[Record]) -> list[Row]:
    """Return a row for each number at once, engine and budget."""
    groups: dict[tuple[int, str, float], dict[Turn, Record]] = {}
    for record in compared(records):
        key = (record["concurrency"], record["engine"], record["keep"])
        groups.setdefault(key, {})[turn_of(record)] = record
    places = list(ENGINES)
    rows = []
    for key in sorted(groups, key=lambda key: (key[0], -key[2], places.index(key[1]))):
        rows.append(_row(*key, groups[key], groups[key[0], "stock", DENSE]))
    return rows


def _row(
    concurrency: int, engine: str, keep: float, ours: dict[Turn, Record], stock: dict[Turn, Record]
) -> Row:
    ttft: list[float] = []
    burst: list[float] = []
    ratios: dict[str, list[float]] = {"speedup": [], "ttft_speedup": [], "burst_speedup": []}
    for turn, record in ours.items():
        waits = record["ttft_ms"]
        ttft += waits
        # those that came first came all at once
        burst += waits[:concurrency]
        other = stock[turn]
        ratios["speedup"].append(_rate(record) / _rate(other))
        ratios["ttft_speedup"].append(median(other["ttft_ms"]) / median(waits))
        first = median(other["ttft_ms"][:concurrency])
        ratios["burst_speedup"].append(first / median(waits[:concurrency]))
    p50, p95 = map(float, np.percentile(ttft, [50, 95]))
    return Row(
        concurrency,
        engine,
        keep,
        len(ours),
        len(ttft),
        median(map(_rate, ours.values())),
        p50,
        p95,
        median(burst),
        median(record["tpot_ms"] for record in ours.values()),
        **{name: median(found) for name, found in ratios.items()},
        others=fmean(record["others"] for record in ours.values()),
    )


def _rate(record: Record) -> float:
    return float(record["requests"] / record["seconds"])


def page(meta: dict[str, Any], rows: list[Row]) -> str:
    """Return the text of README.md."""
    machine = meta["machine"]
    head = (
        "| at once | kept | a step's images count | requests/s | × stock | TTFT p50 | × | p95 "
        "| of those that came first, p50 | × | further token |"
    )
    lines = [
        "# First tokens in a burst",
        "",
        f"    {meta['command']}",
        "",
        f"`{meta['shape']}` in {meta['dtype']}, method `{meta['method']}`, an answer of "
        f"{meta['answer']} tokens; {machine['name']}, {machine['cores']} cores.",
        'As many requests as "at once" says are under way all the time, until twice as many are '
        "answered; those that came first came all at once. × is",
        "against stock vLLM in the same repetition. vLLM bounds the visual tokens that a step "
        "encodes: all of an image count, or those that are kept.",
        "",
        head,
        "|---" * (head.count("|") - 1) + "|",
    ]
    for row in rows:
        kept = "stock vLLM" if row.engine == "stock" else f"{100 * row.keep:.3g} %"
        cells = [
            str(row.concurrency),
            kept,
            ENGINES[row.engine],
            f"{row.requests_per_s:.2f}",
            f"{row.speedup:.2f}",
            f"{row.ttft_p50_ms / 1000:.2f} s",
            f"{row.ttft_speedup:.2f}",
            f"{row.ttft_p95_ms / 1000:.2f} s",
            f"{row.burst_p50_ms / 1000:.2f} s",
            f"{row.burst_speedup:.2f}",
            f"{row.tpot_p50_ms:,.0f} ms",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    others = max(row.others for row in rows)
    lines += ["", f"Other programs kept at most {others:.2f} cores busy in a row, on average."]
    return "\n".join(lines) + "\n"


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_options(parser)
    parser.add_argument("--concurrency", type=numbers(int), default=[8, 32], metavar="N,N,…")
    parser.add_argument("--quick", action="store_true", help="a tiny model: does it run?")
    parser.set_defaults(keep=[0.05], repeats=3)
    options = parser.parse_args(arguments)
    if options.device != "cpu":
        parser.error("three servers share a CPU here: --device cpu")
    if options.quick:
        vars(options).update(QUICK)
    return options


def main(arguments: list[str] | None = None) -> None:
    """Measure, and write results.json, results.csv and README.md."""
    options = parse(arguments)
    os.environ["VLLM_LOGGING_LEVEL"] = "ERROR"
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the servers go too
    names = ("shape", "dtype", "method", "answer", "kv_gib")
    settings: dict[str, Any] = {name: getattr(options, name) for name in names}
    settings |= {"machine": machine("cpu"), "versions": versions()}
    with Log(options.out, settings) as log:
        if lacking := todo(([trial] for trial in plan(options)), log.records):
            measure(options, log, [trial for (trial,) in lacking])
    # all lines, those of earlier runs too
    with Log(options.out, settings) as log:
        rows = rows_of(log.records)
    command = command_of("python", "benchmarks/serving/first_tokens.py", arguments=arguments)
    meta = {"command": command, **settings}
    write_report(options.out, meta, rows, page(meta, rows))


if __name__ == "__main__":
    try:
        main()
    except ValueError as problem:
        sys.exit(f"error: {problem}")
