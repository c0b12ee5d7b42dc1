"""Requests a second, TTFT and KV blocks with and without pruning, by vLLM's own client.

See README.md here.

    python benchmarks/serving/measure.py --out benchmarks/serving

Resumes an interrupted run.
"""

import argparse
import contextlib
import json
import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from client import WORDS, Client, Trial
from report import write
from servers import Server, Watch
from serving_options import DENSE, add_options, machine, numbers
from sessions import next_session, todo
from shapes import SHAPES
from tqdm import tqdm

from adafv.speed.log import Log
from adafv.utils.records import command_of

QUICK = {
    "shape": "tiny",
    "keep": [0.25],
    "concurrency": [1, 4],
    "repeats": 1,
    "answer": 4,
    "kv_gib": 1,
}
AT_ONCE = 32
"""Requests that a server works on together, if no more are asked for."""
MODEL = ("shape", "device", "dtype", "method")
LOAD = ("keep", "concurrency", "answer", "kv_gib", "quick")
"""Options that all lines of a folder have in common."""


def plan(options: argparse.Namespace) -> Iterator[list[Trial]]:
    """Yield the trials that belong together: every repetition visits all rows.

    The order turns, and back, so that whatever drifts hits all of them.
    """
    chosen = [("stock", DENSE), ("adafv", DENSE)]
    for keep in options.keep:
        chosen.append(("adafv", keep))

    for repeat in range(options.repeats):
        turn = repeat // 2 * 2 % len(chosen)
        order = chosen[turn:] + chosen[:turn]
        if repeat % 2:
            order.reverse()
        for concurrency in options.concurrency:
            for engine, keep in order:
                trial = Trial(repeat, concurrency, engine, keep)
                together = [trial]
                # a second question right after the first, alone, so that TTFT shows what it costs
                if concurrency == 1:
                    together.append(trial._replace(question="again"))
                yield together


def measure(options: argparse.Namespace, log: Log, trials: list[list[Trial]]) -> None:
    """Start both servers, and add a line for each trial."""
    shape = SHAPES[options.shape]
    with tempfile.TemporaryDirectory() as temporary, contextlib.ExitStack() as stack:
        folder = Path(temporary)
        model = shape.save(folder / "model")
        # the longest prompt, its answer, and the chat template
        context = shape.visual_tokens(DENSE) + WORDS + options.answer + 64
        servers = {}
        for engine in ("stock", "adafv"):
            servers[engine] = Server(
                model,
                plugin=engine == "adafv",
                device=options.device,
                dtype=options.dtype,
                context=context,
                kv_gib=options.kv_gib,
                share=options.gpu_memory_utilization,
                at_once=max(AT_ONCE, *options.concurrency),
            )
            stack.callback(servers[engine].close)
            # on a GPU the second one measures what memory the first one left
            if options.device != "cpu":
                servers[engine].wait()
        client = Client(folder, model, shape, options.answer, options.method)
        # on a CPU they start side by side
        with ThreadPoolExecutor() as both:
            list(both.map(Server.wait, servers.values()))
        # how many blocks they have
        for engine, server in servers.items():
            log.append([{"engine": engine, **server.cache()}])

        # warm up every row, on images that no trial asks about
        seeds = np.random.default_rng()
        rows: dict[tuple[str, float], None] = {}
        for together in trials:
            for trial in together:
                rows[trial.engine, trial.keep] = None
        for engine, keep in rows:
            warm_up = Trial(-1, 4, engine, keep)
            client.run(servers[engine], warm_up, 4, int(seeds.integers(2**32)))

        session = next_session(log.records)
        bar = tqdm(trials, desc="measured", unit="row", file=sys.stderr, disable=options.quiet)
        for together in bar:
            seed = int(seeds.integers(2**32))
            records = []
            for trial in together:
                requests = max(4 if options.quick else 10, 2 * trial.concurrency)
                with Watch(servers[trial.engine]) as watch:
                    found = client.run(servers[trial.engine], trial, requests, seed)
                records.append({"session": session, **trial._asdict(), **_record(found, watch)})
            # a second question is worth nothing without the first
            log.append(records)


def _record(found: dict[str, Any], watch: Watch) -> dict[str, Any]:
    return {
        "requests": found["completed"],
        "seconds": round(found["duration"], 4),
        "prompt_tokens": found["total_input_tokens"] / found["completed"],
        "answer_tokens": found["total_output_tokens"] / found["completed"],
        "ttft_ms": [round(1000 * seconds, 2) for seconds in found["ttfts"]],
        "tpot_ms": round(float(found["median_tpot_ms"]), 3),
        "kv_blocks": watch.blocks,
        "running": watch.running,
        "preemptions": watch.preemptions,
        "prefix_hits": watch.prefix_hits,
        "others": watch.others,
    }


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_options(parser)
    parser.add_argument("--concurrency", type=numbers(int), default=[1, 8, 32], metavar="N,N,…")
    parser.add_argument(
        "--gpu-memory-utilization",
        type=float,
        default=0.45,
        metavar="F",
        help="of each of the two servers on a GPU",
    )
    parser.add_argument(
        "--quick", action="store_true", help="a tiny model and few requests: does it run?"
    )
    options = parser.parse_args(arguments)
    # a check of the script, not a measurement
    if options.quick:
        vars(options).update(QUICK)
    return options


def settings_of(options: argparse.Namespace) -> dict[str, Any]:
    """Return what all lines of a folder have in common."""
    # here, so that --help needs none of them
    import torch
    import transformers
    import vllm

    from adafv import __version__

    names = (*MODEL, *LOAD)
    versions = {"adafv": __version__, "vllm": vllm.__version__, "torch": torch.__version__}
    settings: dict[str, Any] = {name: getattr(options, name) for name in names}
    settings["machine"] = machine(options.device)
    settings["versions"] = {**versions, "transformers": transformers.__version__}
    return settings


def main(arguments: list[str] | None = None) -> None:
    """Measure, and write the results, an image and README.md."""
    options = parse(arguments)
    # these decide how fast vLLM is: they are part of the command
    chosen = []
    for name, value in os.environ.items():
        if name.startswith(("VLLM_CPU", "OMP_")):
            chosen.append(f"{name}={value}")
    os.environ["VLLM_LOGGING_LEVEL"] = "ERROR"
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the servers go too
    settings = settings_of(options)
    with Log(options.out, settings) as log:
        if lacking := todo(plan(options), log.records):
            measure(options, log, lacking)
    # all lines, those of earlier runs too
    records = [json.loads(line) for line in log.path.read_text().splitlines()]
    words = [*chosen, command_of("python", "benchmarks/serving/measure.py", arguments=arguments)]
    print(write(options.out, SHAPES[options.shape], settings, records, " ".join(words)))


if __name__ == "__main__":
    try:
        main()
    except ValueError as problem:
        sys.exit(f"error: {problem}")
