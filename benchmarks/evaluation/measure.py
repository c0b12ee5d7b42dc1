"""Questions a second of `adafv eval`, and what each stage takes of the time. See README.md here.

    python benchmarks/evaluation/measure.py --out benchmarks/evaluation

One process, on the CPU. Another checkout is measured with PYTHONPATH=CHECKOUT/src.
"""

import argparse
import json
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
PROFILE = "where.json"
"""What where.py has written."""
THROUGHPUT = "throughput.json"
"""What throughput.py has written."""
FULL_RUN = Path(__file__).parents[1] / "accuracy" / "results.json"
"""The last full run."""
BEFORE = {"answers": 148_000, "seconds": 65 * 60}
"""A full run before all of this: 2,000 questions, dense, blind, 24 methods at three budgets."""
BAR = 3
"""How many times as fast a full run was to become."""


class Clock:
    """Adds up the seconds of stages, none of which runs inside another.

    Args:
        now: tells the time; `time.process_time` counts what this process computes alone.
    """

    def __init__(self, now: Callable[[], float] = perf_counter) -> None:
        self.now = now
        self.seconds: defaultdict[str, float] = defaultdict(float)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count the time for a stage, while open."""
        start = self.now()
        yield
        self.seconds[name] += self.now() - start

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
def clocked(processor: ProcessorMixin, now: Callable[[], float] = perf_counter) -> Iterator[Clock]:
    """Time the stages of evaluations, while open."""
    clock = Clock(now)
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


def page(
    results: dict[str, Any],
    full: dict[str, Any],
    found: dict[str, Any] | None = None,
    ways: dict[str, Any] | None = None,
) -> str:
    """Return the text of README.md.

    Args:
        full: results of the last full run of `adafv eval`.
        found: of where.py.
        ways: of throughput.py.
    """
    meta, rounds, means = results["meta"], results["rounds"], results["summary"]
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
        f"| questions a second, under all of these | {_cell(means['questions_per_second'])} |",
        f"| answers a second | {_cell(means['answers_per_second'])} |",
        f"| seconds in all | {_cell(means['seconds'])} |",
        "",
        "| stage | % of the time |",
        "|---|--:|",
    ]
    choosing = means["shares"]["choose"]["median"]
    again = (len(meta["keeps"]) - 1) * choosing
    most = 100 * again / (1 + again)
    for stage, name in STAGES.items():
        share = {key: 100 * value for key, value in means["shares"][stage].items()}
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
        *_bar(means["answers_per_second"]["median"], full),
    ]
    if ways is not None:
        lines += _side_by_side(ways)
    if found is not None:
        lines += _why(found)
    return "\n".join(lines)


def _bar(here: float, full: dict[str, Any]) -> list[str]:
    """Return what was asked for, what was reached, and whether that is enough."""
    meta = full["meta"]
    answers = 0
    methods = set()
    for row in full["rows"]:
        if row["question_type"] == "all":
            answers += row["n"]
            methods.add(row["method"])
    reached = answers / meta["wall_seconds"]
    before = BEFORE["answers"] / BEFORE["seconds"]
    bar = BAR * before
    verdict = "**The bar is missed.**" if max(reached, here) < bar else "The bar holds."
    return [
        "## The bar",
        "",
        f"A full run once gave {BEFORE['answers']:,} answers in {BEFORE['seconds'] / 60:.0f} "
        f"minutes, {before:.0f} a second; {BAR} times that was asked for, {bar:.0f}.",
        f"The last [full run](../accuracy/README.md), with other methods among its {len(methods)}, "
        f"dense and blind included, gave {answers:,} in {meta['wall_seconds'] / 60:.0f} minutes,",
        f"{reached:.0f} a second; the measurement above gives {here:.0f}. {verdict}",
        "",
    ]


def _side_by_side(ways: dict[str, Any]) -> list[str]:
    """Return what processes side by side, and bfloat16, are worth, and what they change."""
    meta, machine = ways["meta"], ways["meta"]["machine"]
    first = ways["ways"][0]["answers_per_second"]["median"]
    bar = BAR * BEFORE["answers"] / BEFORE["seconds"]
    lines = [
        "## Side by side, and in bfloat16",
        "",
        f"    {meta['command']}",
        "",
        f"The same comparison on {meta['questions']} questions on {machine['name']}, "
        f"{machine['threads']} threads, which the processes of",
        "`adafv eval --processes N` share. Median of "
        f"{meta['rounds']} rounds in which the ways take turns, lowest to highest in brackets.",
        "",
        "| processes | precision | answers a second | × |",
        "|--:|---|--:|--:|",
    ]
    for way in ways["ways"]:
        speed = way["answers_per_second"]
        times = speed["median"] / first
        lines.append(f"| {way['processes']} | {way['dtype']} | {_cell(speed)} | {times:.2f} |")
    best = max(way["answers_per_second"]["median"] for way in ways["ways"])
    reached = "is reached" if best >= bar else "is not reached"
    lines += [
        "",
        f"The {bar:.0f} answers a second of the bar, whose machine was another, {reached} on these "
        f"cores by the fastest way: {best:.0f}. What it changes:",
        "",
    ]
    for name, what in (("by_processes", "A process more"), ("by_dtype", "bfloat16")):
        moved = ways[name]
        before, after = moved["right"]
        lines.append(
            f"- {what}: {moved['differing']} of {moved['answers']:,} answers differ; "
            f"{before:,} are right before, {after:,} after."
        )
    return [*lines, ""]


def _why(found: dict[str, Any]) -> list[str]:
    """Return where the time goes, and what could be taken from it."""
    meta = found["meta"]
    few, many = found["batches"]
    share = 100 * found["prefill"] / found["seconds"]
    lines = [
        "## Why not more",
        "",
        f"    {meta['command']}",
        "",
        f"Profile of {found['questions']} questions, {found['answers']:,} answers, in seconds of "
        f"computing, {meta['machine']['threads']} "
        f"thread{'s' if meta['machine']['threads'] > 1 else ''} of {meta['machine']['name']}.",
        f"Other programs ran beside it (load {meta['load']:.1f}): waiting for them is not counted, "
        "but they share caches and memory, so that shares",
        "count more than seconds.",
        "",
        "| | s | % |",
        "|---|--:|--:|",
    ]
    names = {
        "prefill": "the language model's prefill",
        "decode": "its decoding",
        "around": "embedding, merging and the head around it",
        "generate": "`generate`'s own work",
        "choose": "choosing tokens",
        "tower": "the vision tower",
        "seconds": "in all",
    }
    for key, name in names.items():
        seconds = found[key]
        lines.append(f"| {name} | {seconds:.2f} | {100 * seconds / found['seconds']:.1f} |")
    lines += [
        "",
        f"- {share:.0f} % is the language model's arithmetic over prompts, each of which is read "
        f"once. `generate` itself takes {found['generate_ms_a_call']:.1f} ms a call.",
        "- Merging the prompts of several methods into one forward: a row of "
        f"{few['tokens']} tokens takes {few['ms_a_row']:.1f} ms among {few['rows']} rows, "
        f"{many['ms_a_row']:.1f} ms among {many['rows']}.",
        "- Reading what an image's questions share only once, the image and all before it, helps "
        "dense prompts and methods that keep the same",
        "  tokens whatever is asked, no others. What is read is then "
        f"{'' if _all_equal(found) else 'not '}the same to the bit, and it is not done:",
        "",
        "| kept | questions of an image | tokens shared | others | prefill, each | shared | × |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for case in found["shared"]:
        lines.append(
            f"| {100 * case['keep']:g} % | {case['questions']} | {case['prefix']} | "
            f"{case['rest']} | {case['ms']:.0f} ms | {case['ms_shared']:.0f} ms | "
            f"{case['times']:.1f} |"
        )
    lines += ["", f"An image of `{SUITE}` has {meta['an_image']} questions on average.", ""]
    return lines


def _all_equal(found: dict[str, Any]) -> bool:
    """Return whether a shared prefix changed no bit of what is read."""
    return all(case["equal"] for case in found["shared"])


def written(folder: Path) -> str:
    """Return the text of README.md from the results in a folder."""
    results, full = _read(folder / "results.json"), _read(FULL_RUN)
    assert results is not None
    assert full is not None
    return page(results, full, _read(folder / PROFILE), _read(folder / THROUGHPUT))


def _read(path: Path) -> dict[str, Any] | None:
    """Return the JSON in a file; None: there is none."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def write_page(folder: Path) -> None:
    """Write README.md from the results in a folder."""
    (folder / "README.md").write_text(written(folder), encoding="utf-8")


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
    write_page(options.out)


if __name__ == "__main__":
    main()
