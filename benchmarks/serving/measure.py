"""Requests a second, TTFT and KV blocks with and without pruning, by vLLM's own benchmark client:
see README.md here.

    python benchmarks/serving/measure.py --out benchmarks/serving

Takes up an interrupted run where it stopped.
"""

import argparse
import contextlib
import json
import os
import platform
import shlex
import signal
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from client import WORDS, Cell, Client
from report import write
from servers import Server, Watch
from shapes import SHAPES
from tqdm import tqdm

from adafv.speed.log import Log

QUICK = {
    "shape": "tiny",
    "keep": [0.25],
    "concurrency": [1, 4],
    "repeats": 1,
    "answer": 4,
    "kv_gib": 1,
}
DENSE = 1.0


def plan(options: argparse.Namespace) -> Iterator[list[Cell]]:
    """Every repetition visits all rows; the order turns, and back, so that whatever drifts hits all
    of them.
    """
    chosen = [("stock", DENSE), ("adafv", DENSE), *(("adafv", keep) for keep in options.keep)]
    for repeat in range(options.repeats):
        turn = repeat // 2 * 2 % len(chosen)
        order = (chosen[turn:] + chosen[:turn])[:: -1 if repeat % 2 else 1]
        for concurrency in options.concurrency:
            for engine, keep in order:
                cell = Cell(repeat, concurrency, engine, keep)
                # a second question right after the first, alone, so that TTFT shows what it costs
                yield [cell, cell._replace(question="again")] if concurrency == 1 else [cell]


def measure(options: argparse.Namespace, log: Log, todo: list[list[Cell]]) -> None:
    """Start both servers, and add a line for each cell."""
    shape = SHAPES[options.shape]
    with tempfile.TemporaryDirectory() as temporary, contextlib.ExitStack() as stack:
        folder = Path(temporary)
        model = shape.save(folder / "model")
        context = shape.visual_tokens(DENSE) + WORDS + options.answer + 64
        servers = {}
        for engine in ("stock", "adafv"):
            servers[engine] = Server(
                model, plugin=engine == "adafv", device=options.device, context=context, kv_gib=options.kv_gib,
                share=options.gpu_memory_utilization,
            )  # fmt: skip
            stack.callback(servers[engine].close)
            if options.device != "cpu":
                servers[engine].wait()  # the second one measures what memory the first one left
        client = Client(folder, model, shape, options.answer, options.method)
        with ThreadPoolExecutor() as both:
            list(both.map(Server.wait, servers.values()))
        for engine, server in servers.items():
            log.append([{"engine": engine, **server.cache()}])
        seeds = np.random.default_rng()
        for engine, keep in dict.fromkeys(
            (cell.engine, cell.keep) for cells in todo for cell in cells
        ):
            client.run(servers[engine], Cell(-1, 4, engine, keep), 4, int(seeds.integers(2**32)))
        for cells in tqdm(
            todo, desc="measured", unit="row", file=sys.stderr, disable=options.quiet
        ):
            seed = int(seeds.integers(2**32))
            records = []
            for cell in cells:
                requests = max(4 if options.quick else 10, 2 * cell.concurrency)
                with Watch(servers[cell.engine]) as watch:
                    found = client.run(servers[cell.engine], cell, requests, seed)
                records.append({**cell._asdict(), **_record(found, watch)})
            log.append(records)


def _record(found: dict[str, Any], watch: Watch) -> dict[str, Any]:
    return {
        "requests": found["completed"],
        "seconds": round(found["duration"], 4),
        "prompt_tokens": found["total_input_tokens"] / found["completed"],
        "answer_tokens": found["total_output_tokens"] / found["completed"],
        "ttft_ms": [round(1000 * t, 2) for t in found["ttfts"]],
        "tpot_ms": round(float(found["median_tpot_ms"]), 3),
        "kv_blocks": watch.blocks,
        "running": watch.running,
        "preemptions": watch.preemptions,
        "prefix_hits": watch.prefix_hits,
        "others": watch.others,
    }


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    def numbers(kind: type) -> Any:
        return lambda text: [kind(x) for x in text.split(",")]

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--shape", choices=SHAPES, default="llava-0.4b")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--method", default="adafv")
    parser.add_argument("--keep", type=numbers(float), default=[0.25, 0.1, 0.05], metavar="F,F,…")
    parser.add_argument("--concurrency", type=numbers(int), default=[1, 8, 32], metavar="N,N,…")
    parser.add_argument("--repeats", type=int, default=4, metavar="N")
    parser.add_argument(
        "--answer", type=int, default=16, metavar="N", help="tokens of every answer"
    )
    parser.add_argument(
        "--kv-gib", type=int, default=2, metavar="N", help="KV cache of a server on a CPU"
    )
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
    parser.add_argument("--quiet", action="store_true", help="no progress")
    options = parser.parse_args(arguments)
    if options.quick:
        vars(options).update(QUICK)
    return options


def settings_of(options: argparse.Namespace) -> dict[str, Any]:
    """What all lines of a folder have in common."""
    import torch
    import transformers
    import vllm

    from adafv import __version__

    names = ("shape", "device", "method", "keep", "concurrency", "answer", "kv_gib", "quick")
    versions = {"adafv": __version__, "vllm": vllm.__version__, "torch": torch.__version__}
    return {
        **{name: getattr(options, name) for name in names},
        "machine": machine(options.device),
        "versions": {**versions, "transformers": transformers.__version__},
    }


def machine(device: str) -> dict[str, Any]:
    """Name, cores and memory in GiB."""
    import psutil
    import torch

    name = platform.processor() or platform.machine()
    if device == "cuda":
        name = torch.cuda.get_device_name()
    elif (info := Path("/proc/cpuinfo")).exists():
        name = next(
            (line.split(": ")[1] for line in info.read_text().splitlines() if "model name" in line),
            name,
        )
    return {
        "name": name,
        "cores": psutil.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30),
    }


def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    chosen = [
        f"{name}={value}"
        for name, value in os.environ.items()
        if name.startswith(("VLLM_CPU", "OMP_"))
    ]
    os.environ["VLLM_LOGGING_LEVEL"] = "ERROR"
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the servers go too
    settings = settings_of(options)
    with Log(options.out, settings) as log:
        done = {
            tuple(line[name] for name in Cell._fields) for line in log.records if "repeat" in line
        }
        todo = [cells for cells in plan(options) if not done.issuperset(map(tuple, cells))]
        if todo:
            measure(options, log, todo)
    records = [json.loads(line) for line in log.path.read_text().splitlines()]
    command = " ".join(
        [
            *chosen,
            shlex.join(["python", "benchmarks/serving/measure.py", *(arguments or sys.argv[1:])]),
        ]
    )
    print(write(options.out, SHAPES[options.shape], settings, records, command))


if __name__ == "__main__":
    try:
        main()
    except ValueError as problem:
        sys.exit(f"error: {problem}")
