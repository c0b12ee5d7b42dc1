"""Questions a second of `adafv eval`, and what each stage takes of the time. See README.md here.

    python benchmarks/evaluation/measure.py --out benchmarks/evaluation

One process, on the CPU. Another checkout is measured with PYTHONPATH=CHECKOUT/src.
"""

import argparse
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from functools import wraps
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any
from unittest.mock import patch

import torch
from tqdm import tqdm
from transformers import PreTrainedModel, ProcessorMixin

import adafv.core.encode
from adafv.data import suites
from adafv.evaluation import prompts
from adafv.evaluation.evaluate import Evaluation
from adafv.evaluation.report import meta_of
from adafv.models.load import load
from adafv.utils.files import writable_folder
from adafv.utils.machine import machine_of
from adafv.utils.records import command_of, write_json

METHODS = ("adafv+", "fastervlm", "divprune")
KEEPS = (0.05, 0.1, 0.25)
SUITE = "scenes"
STAGES = {
    "draw": "draw the images of the suite",
    "prepare": "prepare pixels",
    "tower": "run the vision tower",
    "choose": "choose tokens",
    "answer": "answer: prefill and decode",
    "rest": "all else: prompts, shorter inputs, the log",
}
WARM = 8
"""Questions that are asked before any is timed."""


class Clock:
    """Adds up the seconds of stages, none of which runs inside another."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count the time for a stage, while open."""
        start = perf_counter()
        yield
        self.seconds[name] += perf_counter() - start

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function whose calls count for a stage."""

        @wraps(function)
        def call(*args: Any, **options: Any) -> Any:
            with self.stage(name):
                return function(*args, **options)

        return call

    def timed_items(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function whose iterator counts for a stage, as far as it is read."""

        @wraps(function)
        def iterate(*args: Any, **options: Any) -> Iterator[Any]:
            items = iter(function(*args, **options))
            step = self.timed(name, lambda: next(items, None))
            while (item := step()) is not None:
                yield item

        return iterate


@contextmanager
def clocked(processor: ProcessorMixin) -> Iterator[Clock]:
    """Time the stages of evaluations, while open."""
    clock = Clock()
    tools: Any = processor
    functions = (
        ("prepare", type(tools.image_processor), "__call__"),
        ("tower", adafv.core.encode, "run"),
        ("choose", prompts.Prompts, "_chosen"),
        ("answer", prompts, "generate"),
    )
    with ExitStack() as stack:
        for stage, owner, name in functions:
            timed = clock.timed(stage, getattr(owner, name))
            stack.enter_context(patch.object(owner, name, timed))
        drawn = clock.timed_items("draw", suites.load_suite)
        stack.enter_context(patch.object(suites, "load_suite", drawn))
        yield clock


def measured(model: PreTrainedModel, processor: ProcessorMixin, plan: Evaluation) -> dict[str, Any]:
    """Return questions, answers and seconds of an evaluation, and its stages' share of them."""
    with TemporaryDirectory() as folder, clocked(processor) as clock:
        start = perf_counter()
        records = plan.run(model, processor, folder, name="embedded").records
        seconds = perf_counter() - start
    asked = {(record["id"], record["question"]) for record in records}
    clock.seconds["rest"] = seconds - sum(clock.seconds.values())
    return {
        "questions": len(asked),
        "answers": len(records),
        "seconds": seconds,
        "questions_per_second": len(asked) / seconds,
        "answers_per_second": len(records) / seconds,
        "shares": {stage: clock.seconds[stage] / seconds for stage in STAGES},
    }


def summary(values: list[float]) -> dict[str, float]:
    """Return what lies in the middle, and the lowest and highest."""
    return {"median": median(values), "low": min(values), "high": max(values)}


def summaries(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the summary over rounds of what is counted by second, and of each stage's share."""
    found: dict[str, Any] = {}
    for name in ("seconds", "questions_per_second", "answers_per_second"):
        found[name] = summary([one[name] for one in rounds])
    found["shares"] = {}
    for stage in STAGES:
        found["shares"][stage] = summary([one["shares"][stage] for one in rounds])
    return found


def page(results: dict[str, Any]) -> str:
    """Return the text of README.md."""
    meta, rounds, found = results["meta"], results["rounds"], results["summary"]
    machine = meta["machine"]
    budgets = ", ".join(f"{100 * keep:g} %" for keep in meta["keeps"])
    lines = [
        "# How fast an evaluation goes",
        "",
        f"    {meta['command']}",
        "",
        f"The path of `adafv eval` on the embedded model, in one process on {machine['name']},",
        f"{machine['threads']} threads: {rounds[0]['questions']} questions of the suite "
        f"`{SUITE}`, dense, blind and with",
        f"{', '.join(f'`{name}`' for name in meta['methods'])} at {budgets}, "
        f"{rounds[0]['answers']} answers in all. Median of",
        f"{len(rounds)} rounds, lowest to highest in brackets; loading the model is not in it.",
        "",
        "| | |",
        "|---|--:|",
        f"| questions a second, under all of these | {_cell(found['questions_per_second'])} |",
        f"| answers a second | {_cell(found['answers_per_second'])} |",
        f"| seconds in all | {_cell(found['seconds'])} |",
        "",
        "| stage | % of the time |",
        "|---|--:|",
    ]
    choosing = found["shares"]["choose"]["median"]
    again = (len(meta["keeps"]) - 1) * choosing
    most = 100 * again / (1 + again)
    for stage, name in STAGES.items():
        share = {key: 100 * value for key, value in found["shares"][stage].items()}
        lines.append(f"| {name} | {_cell(share)} |")
    lines += [
        "",
        "An image is prepared and encoded once, for all of its questions, methods and budgets; a",
        "method that is nested chooses once for all of its budgets. Every round: `results.json`.",
        "",
        f"Choosing is {100 * choosing:.1f} % of the time, so that choosing once cannot save a",
        "third of it: had none of these methods done so before, and did all of them now, it would",
        f"save {most:.0f} %.",
        "",
    ]
    return "\n".join(lines)


def _cell(found: dict[str, float]) -> str:
    """Return a summary as a cell of a table."""
    return f"{found['median']:.2f} ({found['low']:.2f} to {found['high']:.2f})"


def main(arguments: list[str] | None = None) -> None:
    """Measure, and write results.json and README.md."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--limit", type=int, default=96, metavar="N", help="questions")
    parser.add_argument("--rounds", type=int, default=5, metavar="N")
    parser.add_argument("--batch-size", type=int, default=16, metavar="N")
    options = parser.parse_args(arguments)
    writable_folder(options.out)
    begun = datetime.now(UTC)
    model, processor = load(device="cpu", dtype="float32")

    def plan(limit: int) -> Evaluation:
        return Evaluation(
            methods=METHODS,
            keeps=KEEPS,
            suites=[SUITE],
            limit=limit,
            batch_size=options.batch_size,
        )

    measured(model, processor, plan(min(WARM, options.limit)))
    rounds = []
    for _ in tqdm(range(options.rounds), unit="round"):
        rounds.append(measured(model, processor, plan(options.limit)))

    meta = meta_of(
        model,
        "embedded",
        begun,
        methods=METHODS,
        keeps=KEEPS,
        suite=SUITE,
        batch_size=options.batch_size,
        machine=machine_of(torch.device("cpu")),
    )
    meta["command"] = command_of("python", "benchmarks/evaluation/measure.py")
    results = {"meta": meta, "rounds": rounds, "summary": summaries(rounds)}
    write_json(options.out / "results.json", results)
    (options.out / "README.md").write_text(page(results), encoding="utf-8")


if __name__ == "__main__":
    main()
