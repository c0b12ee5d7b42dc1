"""Where the time of a request goes on vLLM, one at a time, and what a budget can shorten of it.

    python benchmarks/serving/request_stages.py --out benchmarks/serving/stages

The engine's own counters say how long requests wait, are prefilled and decoded; what the client
waits beyond that is HTTP, the decoding of the picture, its preparation and the detokeniser. The
tower is what a first question about a picture costs more than a second one, whose encoding the
plugin has kept. Resumes an interrupted run.
"""

import argparse
import contextlib
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from client import WORDS, Client, Trial
from servers import Server
from serving_options import DENSE, add_options
from shapes import SHAPES, Shape
from tqdm import tqdm

from adafv.speed.log import Log
from adafv.utils.machine import cpu, versions
from adafv.utils.records import command_of, row_of, write_json

QUESTIONS = ("new", "again")
COUNTED = {
    "queue": "request_queue_time_seconds_sum",
    "prefill": "request_prefill_time_seconds_sum",
    "decode": "request_decode_time_seconds_sum",
    "selection": "selection_seconds_sum",
}
"""What an engine adds up, by what it is called here."""
HEAD = (
    *("kept", "front", "queue", "tower", "selection", "LLM prefill", "decode", "in all"),
    *("×", "ideal", "of it"),
)


@dataclass(frozen=True)
class Spent:
    """Milliseconds of a request, means.

    Attributes:
        total: until the client has the last token.
        queue, prefill, decode, selection: as the engine counts them; the prefill holds tower and
            selection.
    """

    total: float
    queue: float
    prefill: float
    decode: float
    selection: float


@dataclass(frozen=True)
class Row:
    """The stages of a request at one budget, in milliseconds.

    Attributes:
        keep: share of the visual tokens.
        front: HTTP, picture, preparation and detokenising.
        tower, selection: of the plugin.
        llm: the language model's prefill.
        speedup: of the whole request, against all tokens.
        ideal: the same if the language model's prefill took as much less as it has less to read,
            and all else what it takes.
    """

    keep: float
    front: float
    queue: float
    tower: float
    selection: float
    llm: float
    decode: float
    total: float
    speedup: float
    ideal: float


def spent(found: dict[str, Any], before: dict[str, float], after: dict[str, float]) -> Spent:
    """Return the means of some requests, from the client's times and the engine's counters."""
    count = found["completed"]
    totals = [
        first + sum(later) for first, later in zip(found["ttfts"], found["itls"], strict=True)
    ]
    counted = {}
    for name, metric in COUNTED.items():
        counted[name] = 1000 * (after.get(metric, 0.0) - before.get(metric, 0.0)) / count
    return Spent(total=1000 * fmean(totals), **counted)


def rows_of(
    new: dict[float, Spent], again: dict[float, Spent], read: Callable[[float], int]
) -> list[Row]:
    """Return a row for each budget, all tokens first.

    Args:
        new, again: by budget, of first and of second questions about a picture.
        read: gives the tokens of a prompt at a budget.
    """
    # the same tower at every budget: where the prefix cache holds nothing, it is the difference
    pruned = [keep for keep in new if keep < DENSE]
    tower = fmean([new[keep].prefill - again[keep].prefill for keep in pruned])
    dense = new[DENSE]
    dense_llm = dense.prefill - tower
    rows = []
    for keep, one in sorted(new.items(), reverse=True):
        front = one.total - one.queue - one.prefill - one.decode
        llm = dense_llm * read(keep) / read(DENSE)
        at_best = dense.total - dense.prefill - dense.decode + tower + llm + one.decode
        rows.append(
            Row(
                keep=keep,
                front=front,
                queue=one.queue,
                tower=tower,
                selection=one.selection,
                llm=one.prefill - tower - one.selection,
                decode=one.decode,
                total=one.total,
                speedup=dense.total / one.total,
                ideal=dense.total / at_best,
            )
        )
    return rows


def plan(options: argparse.Namespace) -> list[list[Trial]]:
    """Return the trials: every budget in each round, new pictures, then each of them again."""
    trials = []
    for turn in range(options.repeats):
        for keep in (DENSE, *options.keep):
            together = [Trial(turn, 1, "adafv", keep, question) for question in QUESTIONS]
            trials.append(together)
    return trials


def measure(options: argparse.Namespace, log: Log, todo: list[list[Trial]]) -> None:
    """Start a server with the plugin, and add a line for each trial."""
    shape: Shape = SHAPES[options.shape]
    with tempfile.TemporaryDirectory() as temporary, contextlib.ExitStack() as stack:
        folder = Path(temporary)
        model = shape.save(folder / "model")
        server = Server(
            model,
            plugin=True,
            device=options.device,
            dtype=options.dtype,
            context=shape.visual_tokens(DENSE) + WORDS + options.answer + 64,
            kv_gib=options.kv_gib,
            share=0.8,
        )
        stack.callback(server.close)
        server.wait()
        client = Client(folder, model, shape, options.answer, options.method)

        # warm up, on pictures of their own
        seeds = np.random.default_rng()
        for keep in dict.fromkeys(trial.keep for together in todo for trial in together):
            client.run(server, Trial(-1, 1, "adafv", keep), 2, int(seeds.integers(2**32)))

        bar = tqdm(todo, desc="measured", unit="row", file=sys.stderr, disable=options.quiet)
        for together in bar:
            seed = int(seeds.integers(2**32))
            records = []
            for trial in together:
                before = server.metrics()
                found = client.run(server, trial, options.requests, seed)
                one = spent(found, before, server.metrics())
                records.append({**trial._asdict(), **vars(one)})
            # a second question is worth nothing without the first
            log.append(records)


def means(records: Iterable[dict[str, Any]], question: str) -> dict[float, Spent]:
    """Return the means over rounds by budget, of first ("new") or second ("again") questions."""
    rounds: dict[float, list[dict[str, Any]]] = {}
    for record in records:
        if record["question"] == question:
            rounds.setdefault(record["keep"], []).append(record)
    found = {}
    for keep, several in rounds.items():
        names = [one.name for one in fields(Spent)]
        found[keep] = Spent(**{name: fmean(each[name] for each in several) for name in names})
    return found


def page(meta: dict[str, Any], rows: list[Row]) -> str:
    """Return the text of README.md."""
    lines = [
        "# Where the time of a request goes",
        "",
        f"    {meta['command']}",
        "",
        f"`{meta['shape']}` in {meta['dtype']}, one request at a time, an answer of "
        f"{meta['answer']} tokens, method `{meta['method']}`; {meta['processor']}, "
        f"{meta['cores']} cores.",
        f"Milliseconds, means over {meta['repeats'] * meta['requests']} requests. *Front* is what "
        "the client waits beyond what the engine counts: HTTP,",
        "decoding and preparing the picture, detokenising. *Tower* is what a first question about "
        "a picture costs the engine more than a second",
        "one, the mean over the pruned budgets. × is the whole request against all tokens; *ideal* "
        "is that if the language model's prefill took as",
        "much less as it has less to read, and everything else what it takes.",
        "",
        f"| {' | '.join(HEAD)} |",
        "|---" * len(HEAD) + "|",
    ]
    for row in rows:
        times = (row.front, row.queue, row.tower, row.selection, row.llm, row.decode, row.total)
        cells = [f"{time:.0f}" if time >= 10 else f"{time:.1f}" for time in times]
        share = f"{100 * row.speedup / row.ideal:.0f} %"
        lines.append(
            f"| {100 * row.keep:.3g} % | {' | '.join(cells)} | {row.speedup:.2f} | "
            f"{row.ideal:.2f} | {share} |"
        )
    least = rows[-1]
    lines += [
        "",
        f"At {100 * least.keep:.3g} % kept {100 * least.decode / least.total:.0f} % of a request "
        f"is decoding and {100 * (least.front + least.tower) / least.total:.0f} % front and tower, "
        "which no budget shortens.",
        "",
    ]
    return "\n".join(lines)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_options(parser)
    parser.add_argument("--requests", type=int, default=6, metavar="N", help="of a round")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Measure, and write results.json and README.md."""
    options = parse(arguments)
    os.environ["VLLM_LOGGING_LEVEL"] = "ERROR"
    names = ("shape", "device", "dtype", "method", "keep", "answer", "requests", "repeats")
    settings: dict[str, Any] = {name: getattr(options, name) for name in names}
    settings |= cpu() | {"versions": versions()}
    with Log(options.out, settings) as log:
        done = set()
        for line in log.records:
            done.add(Trial(**{name: line[name] for name in Trial._fields}))
        todo = [together for together in plan(options) if not done.issuperset(together)]
        if todo:
            measure(options, log, todo)
    records = [json.loads(line) for line in log.path.read_text().splitlines()]
    shape = SHAPES[options.shape]
    new, again = (means(records, question) for question in QUESTIONS)
    rows = rows_of(new, again, lambda keep: shape.visual_tokens(keep) + WORDS)

    command = command_of("python", "benchmarks/serving/request_stages.py", arguments=arguments)
    meta = settings | {"command": command}
    write_json(options.out / "results.json", {"meta": meta, "rows": [row_of(row) for row in rows]})
    (options.out / "README.md").write_text(page(meta, rows), encoding="utf-8")
    print(page(meta, rows))


if __name__ == "__main__":
    main()
