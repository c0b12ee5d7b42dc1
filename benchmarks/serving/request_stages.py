"""Where the time of a request goes on vLLM, one at a time, and what a budget can shorten of it.

    python benchmarks/serving/request_stages.py --out benchmarks/serving/stages

The engine's own counters say how long requests wait, are prefilled and decoded; what the client
waits beyond that is HTTP, the decoding of the picture, its preparation and the detokeniser. The
tower is what a first question about a picture costs more than a second one, whose encoding the
plugin has kept. Counters are read after every request, so that each has stages of its own. Resumes
an interrupted run.
"""

import argparse
import contextlib
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from statistics import median
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
LOG = "cells.jsonl"
COLUMNS = ("front", "queue", "tower", "selection", "llm", "decode", "total")
COUNTED = {
    "queue": "request_queue_time_seconds_sum",
    "prefill": "request_prefill_time_seconds_sum",
    "decode": "request_decode_time_seconds_sum",
    "selection": "selection_seconds_sum",
}
"""What an engine adds up, by what it is called here."""
TAKEN = ("front", "queue", "selection", "llm", "decode", "total")
"""Stages that each request has of its own, and their sum."""
HEAD = (
    *("kept", "front", "queue", "tower", "selection", "LLM prefill", "decode", "in all"),
    *("×", "ideal", "of it"),
)


@dataclass(frozen=True)
class Spent:
    """Milliseconds of a request, or means of some that were asked together.

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
    """The stages of a request at one budget, in milliseconds, medians.

    Attributes:
        keep: share of the visual tokens.
        front: HTTP, picture, preparation and detokenising.
        tower, selection: of the plugin.
        llm: the language model's prefill.
        speedup: of the whole request, against all tokens.
        ideal: the same if the language model's prefill took as much less as it has less to read,
            and all else what it takes.
        p95: 95th percentiles, by stage; none where what was logged are means.
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
    p95: dict[str, float]


def spent(found: dict[str, Any], before: dict[str, float], after: dict[str, float]) -> Spent:
    """Return what some requests took, from the client's times and the engine's counters."""
    count = found["completed"]
    total = sum(found["ttfts"])
    for later in found["itls"]:
        total += sum(later)
    counted = {}
    for name, metric in COUNTED.items():
        counted[name] = 1000 * (after.get(metric, 0.0) - before.get(metric, 0.0)) / count
    return Spent(total=1000 * total / count, **counted)


def rows_of(
    new: dict[float, list[Spent]],
    again: dict[float, list[Spent]],
    read: Callable[[float], int],
    *,
    single: bool = True,
) -> list[Row]:
    """Return a row for each budget, all tokens first.

    Args:
        new, again: by budget, of first and of second questions about a picture.
        read: gives the tokens of a prompt at a budget.
        single: each is of one request; means have no 95th percentile.
    """
    # the same tower at every budget: where the prefix cache holds nothing, it is the difference
    towers = []
    for keep, first in new.items():
        if keep < DENSE:
            for one, two in zip(first, again[keep], strict=True):
                towers.append(one.prefill - two.prefill)
    tower = median(towers)
    rows = []
    dense: dict[str, float] = {}
    # all tokens come first
    for keep, requests in sorted(new.items(), reverse=True):
        taken = _by_stage(requests, tower)
        middle = {name: median(ms) for name, ms in taken.items()}
        dense = dense or middle
        beside = dense["front"] + dense["queue"] + tower
        llm = dense["llm"] * read(keep) / read(DENSE)
        p95 = {}
        if single:
            p95 = {name: float(np.percentile(ms, 95)) for name, ms in taken.items()}
            p95["tower"] = float(np.percentile(towers, 95))
        row = Row(
            keep=keep,
            **middle,
            tower=tower,
            speedup=dense["total"] / middle["total"],
            ideal=(beside + dense["llm"] + dense["decode"]) / (beside + llm + middle["decode"]),
            p95=p95,
        )
        rows.append(row)
    return rows


def _by_stage(requests: list[Spent], tower: float) -> dict[str, list[float]]:
    """Return what each of some requests took in each stage; all of them share the tower."""
    taken: dict[str, list[float]] = {name: [] for name in TAKEN}
    for one in requests:
        taken["front"].append(one.total - one.queue - one.prefill - one.decode)
        taken["queue"].append(one.queue)
        taken["selection"].append(one.selection)
        taken["llm"].append(one.prefill - tower - one.selection)
        taken["decode"].append(one.decode)
        taken["total"].append(one.total)
    return taken


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
            for number in range(options.requests):
                for trial in together:
                    before = server.metrics()
                    found = client.run(server, trial, 1, seed + number)
                    one = spent(found, before, server.metrics())
                    records.append({**trial._asdict(), "request": number, **vars(one)})
            # a second question is worth nothing without the first
            log.append(records)


def by_budget(records: Iterable[dict[str, Any]], question: str) -> dict[float, list[Spent]]:
    """Return what was logged by budget, of first ("new") or second ("again") questions."""
    names = [one.name for one in fields(Spent)]
    found: dict[float, list[Spent]] = {}
    for record in records:
        if record["question"] == question:
            one = Spent(**{name: record[name] for name in names})
            found.setdefault(record["keep"], []).append(one)
    return found


def counted(meta: dict[str, Any], log: Path) -> list[Row]:
    """Return the rows of what a log holds."""
    records = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    new, again = (by_budget(records, question) for question in QUESTIONS)
    shape = SHAPES[meta["shape"]]
    # earlier runs have logged the mean of each round's requests
    single = "request" in records[0]
    return rows_of(new, again, lambda keep: shape.visual_tokens(keep) + WORDS, single=single)


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
        _of_what(meta, rows),
        "*Front* is what the client waits beyond what the engine counts: HTTP, "
        "decoding and preparing the picture, detokenising. *Tower* is what a first question about "
        "a picture costs the engine more than a second",
        "one, the median over the pruned budgets. × is the whole request against all tokens; "
        "*ideal* is that if the language model's prefill took as",
        "much less as it has less to read, and everything else what it takes.",
        "",
        f"| {' | '.join(HEAD)} |",
        "|---" * len(HEAD) + "|",
    ]
    for row in rows:
        stages = asdict(row)
        cells = [_cell(stages[name], row.p95.get(name)) for name in COLUMNS]
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
        f"The front is not split further: vLLM counts nothing in it, and it is "
        f"{100 * least.front / least.total:.1f} % of that request.",
        "",
    ]
    return "\n".join(lines)


def _of_what(meta: dict[str, Any], rows: list[Row]) -> str:
    """Return what the times are of."""
    if rows[0].p95:
        requests = meta["repeats"] * meta["requests"]
        return f"Milliseconds, medians over {requests} requests, in brackets the 95th percentile."
    return (
        f"Milliseconds, medians over {meta['repeats']} rounds, each the mean of "
        f"{meta['requests']} requests: this run has logged no more, so that it has no 95th "
        "percentile; the next one has."
    )


def _cell(ms: float, p95: float | None) -> str:
    """Return a time, with its 95th percentile where that is known."""
    texts = [f"{time:.0f}" if time >= 10 else f"{time:.1f}" for time in (ms, p95 or 0)]
    return texts[0] if p95 is None else f"{texts[0]} ({texts[1]})"


def written(folder: Path) -> str:
    """Return the text of README.md from the log in a folder."""
    meta = json.loads((folder / "results.json").read_text(encoding="utf-8"))["meta"]
    return page(meta, counted(meta, folder / LOG))


def write(folder: Path, meta: dict[str, Any]) -> None:
    """Write results.json and README.md from the log in a folder."""
    rows = counted(meta, folder / LOG)
    write_json(folder / "results.json", {"meta": meta, "rows": [row_of(row) for row in rows]})
    (folder / "README.md").write_text(page(meta, rows), encoding="utf-8")


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
    command = command_of("python", "benchmarks/serving/request_stages.py", arguments=arguments)
    write(options.out, settings | {"command": command})
    print(written(options.out))


if __name__ == "__main__":
    main()
