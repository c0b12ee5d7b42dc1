"""Answers a second of `adafv eval` by processes and precision, and what precision changes.

    python benchmarks/evaluation/throughput.py --out benchmarks/evaluation

The evaluation is that of measure.py, on more questions, in each of the ways in turn; loading the
model is not in it.
"""

import argparse
import json
from contextlib import AbstractContextManager, ExitStack, nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import torch
from measure import KEEPS, METHODS, SUITE, THROUGHPUT, WARM, summary, write_page
from tqdm import tqdm

from adafv.evaluation.evaluate import Evaluation
from adafv.evaluation.workers import Workers
from adafv.models.load import load
from adafv.utils.files import writable_folder
from adafv.utils.machine import machine_of, versions
from adafv.utils.records import command_of, write_json

DTYPES = ("float32", "bfloat16")


def answered(
    plan: Evaluation, dtype: str, workers: Workers | None
) -> tuple[float, list[dict[str, Any]]]:
    """Return the answers a second of an evaluation, and the answers."""
    model, processor = load(device="cpu", dtype=dtype)
    with TemporaryDirectory() as folder, plan.opened(model, processor, folder, "embedded") as log:
        start = perf_counter()
        found = plan.answer(model, processor, log, name="embedded", workers=workers)
        seconds = perf_counter() - start
    return len(found.records) / seconds, found.records


def moved(first: list[dict[str, Any]], second: list[dict[str, Any]]) -> dict[str, Any]:
    """Return how many answers of two runs differ, and how many each has right."""
    differing = 0
    for one, other in zip(first, second, strict=True):
        differing += one["answer"] != other["answer"]
    return {
        "answers": len(first),
        "differing": differing,
        "right": [sum(record["correct"] for record in records) for records in (first, second)],
    }


def main(arguments: list[str] | None = None) -> None:
    """Measure, and write throughput.json and README.md."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--limit", type=int, default=240, metavar="N", help="questions")
    parser.add_argument("--rounds", type=int, default=5, metavar="N")
    parser.add_argument(
        "--processes",
        type=int,
        default=torch.get_num_threads(),
        metavar="N",
        help="beside one; default: one for each core",
    )
    options = parser.parse_args(arguments)
    writable_folder(options.out)

    def plan(limit: int) -> Evaluation:
        return Evaluation(methods=METHODS, keeps=KEEPS, suites=[SUITE], limit=limit)

    ways = [(count, dtype) for dtype in DTYPES for count in (1, options.processes)]
    speeds: dict[tuple[int, str], list[float]] = {way: [] for way in ways}
    answers = {}
    # the processes of all ways live side by side, and only those of one work
    with ExitStack() as stack:
        workers: dict[tuple[int, str], Workers | None] = {}
        for count, dtype in ways:
            some: AbstractContextManager[Workers | None] = nullcontext()
            if count > 1:
                some = Workers(count, plan(options.limit), None, "cpu", dtype)
            workers[count, dtype] = stack.enter_context(some)
            answered(plan(min(WARM * count, options.limit)), dtype, workers[count, dtype])
        for _ in tqdm(range(options.rounds), unit="round"):
            for count, dtype in ways:
                speed, records = answered(plan(options.limit), dtype, workers[count, dtype])
                speeds[count, dtype].append(speed)
                answers[count, dtype] = records

    found = []
    for (count, dtype), each in speeds.items():
        found.append({"processes": count, "dtype": dtype, "answers_per_second": summary(each)})
    script = "benchmarks/evaluation/throughput.py"
    results = {
        "meta": {
            "command": command_of("python", script, arguments=arguments),
            "machine": machine_of(torch.device("cpu")),
            "versions": versions(),
            "questions": options.limit,
            "rounds": options.rounds,
        },
        "ways": found,
        # a process more changes nothing, precision does
        "by_processes": moved(answers[ways[0]], answers[ways[1]]),
        "by_dtype": moved(answers[ways[0]], answers[ways[2]]),
    }
    write_json(options.out / THROUGHPUT, results)
    # throughput alone has no page
    if (options.out / "results.json").exists():
        write_page(options.out)
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
