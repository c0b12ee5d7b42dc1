"""What was measured of an engine at a budget, out of the trials of a measurement."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Any

import numpy as np
from sessions import compared, turn_of
from shapes import Shape

from adafv.utils.records import columns_of, row_of

__all__ = ["COLUMNS", "SOON", "STOCK", "Record", "Row", "rows_of", "summed"]

STOCK = ("stock", 1.0)
SOON = (1, 2, 5)  # seconds to the first token that a user may be promised

Record = dict[str, Any]
Name = tuple[str, float]
"""engine, keep"""
Group = tuple[int, str]
"""concurrency, question"""


@dataclass(frozen=True)
class Row:
    """An engine at a budget, with so many requests at once.

    Medians are over repetitions, percentiles of TTFT over all their requests.

    Attributes:
        speedup, ttft_speedup: against stock vLLM in the same repetition of the same session;
            `speedup_low` and `speedup_high` are the lowest and the highest.
        ideal_speedup, ttft_ideal: ratios of FLOPs: all of them, and those up to the first token,
            vision tower included; None where the image was asked about before.
        ideal_as_decoded: ratio of times if all up to the first token took as much less as its
            FLOPs, and the other tokens took what they took; of one request at a time, since what
            others' prefills delay is no decoding.
        within_1_s, within_2_s, within_5_s: share of requests whose first token came so soon.
        kv_blocks, running: most in use, most requests at once.
        kv_blocks_per_request, kv_capacity_requests: counted, not measured.
        others: cores that other programs kept busy, mean.
    """

    # what was asked of which engine
    engine: str
    keep: float
    concurrency: int
    question: str
    repeats: int
    requests: int
    visual_tokens: int
    prompt_tokens: float
    # how fast it was
    requests_per_s: float
    tokens_per_s: float
    ttft_p50_ms: float
    ttft_p95_ms: float
    ttft_p99_ms: float
    within_1_s: float
    within_2_s: float
    within_5_s: float
    tpot_p50_ms: float
    # against stock vLLM, and against what FLOPs allow
    speedup: float
    speedup_low: float
    speedup_high: float
    ideal_speedup: float | None
    share_of_ideal: float | None
    ttft_speedup: float
    ttft_ideal: float | None
    ideal_as_decoded: float | None
    # what it took
    kv_blocks: int
    kv_blocks_per_request: int
    kv_capacity_requests: int
    running: int
    preemptions: int
    prefix_hits: int
    others: float


COLUMNS = columns_of(Row)


def rows_of(
    trials: Sequence[Record], caches: dict[str, Record], shape: Shape
) -> list[dict[str, Any]]:
    """Return a `Row` per concurrency, question, engine and keep."""
    groups: dict[Group, dict[Name, list[Record]]] = {}
    for trial in compared(trials):
        group = groups.setdefault((trial["concurrency"], trial["question"]), defaultdict(list))
        group[trial["engine"], trial["keep"]].append(trial)

    # new questions first, few at once first; stock first, then by falling budget
    rows = []
    for key in sorted(groups, key=lambda key: (key[1] != "new", key[0])):
        group = groups[key]
        for name in sorted(group, key=lambda name: (name[0] != "stock", -name[1])):
            row = _row(key, name, group[name], group[STOCK], caches[name[0]], shape)
            rows.append(row_of(row, 4))
    return rows


def _row(
    key: Group,
    name: Name,
    trials: list[Record],
    stock: list[Record],
    cache: Record,
    shape: Shape,
) -> Row:
    # of one request
    answer = round(trials[0]["answer_tokens"])
    prompt = fmean(trial["prompt_tokens"] for trial in trials)

    # ideal: a second question finds the tower's work done, and FLOPs say nothing
    ideal = None
    ttft_ideal = None
    if key[1] == "new":
        ours = shape.flops(round(prompt), answer)
        theirs = shape.flops(round(stock[0]["prompt_tokens"]), answer)
        ideal = sum(theirs.values()) / sum(ours.values())
        ttft_ideal = (theirs["vision"] + theirs["prefill"]) / (ours["vision"] + ours["prefill"])
    as_decoded = None
    if ttft_ideal is not None and key[0] == 1:
        first = median(np.median(trial["ttft_ms"]) for trial in stock)
        at_best = first / ttft_ideal + _decoding(trials)
        as_decoded = float((first + _decoding(stock)) / at_best)

    # against stock vLLM in the same repetition
    # a machine may slow down from repetition to repetition, and from day to day
    in_turn = {turn_of(trial): trial for trial in stock}
    ratios = []
    waits = []
    for trial in trials:
        other = in_turn[turn_of(trial)]
        ratios.append(_rate(trial) / _rate(other))
        waits.append(np.median(other["ttft_ms"]) / np.median(trial["ttft_ms"]))

    ttft = []
    for trial in trials:
        ttft += trial["ttft_ms"]
    p50, p95, p99 = np.percentile(ttft, [50, 95, 99])
    soon = [fmean(wait <= 1000 * limit for wait in ttft) for limit in SOON]

    # nothing reads the last token; vLLM's first block is empty
    blocks = -(-(round(prompt) + answer - 1) // cache["block_size"])
    return Row(
        engine=name[0],
        keep=name[1],
        concurrency=key[0],
        question=key[1],
        repeats=len(trials),
        requests=summed(trials, "requests"),
        visual_tokens=shape.visual_tokens(name[1]),
        prompt_tokens=prompt,
        requests_per_s=median(map(_rate, trials)),
        tokens_per_s=median(_rate(trial) * trial["answer_tokens"] for trial in trials),
        ttft_p50_ms=float(p50),
        ttft_p95_ms=float(p95),
        ttft_p99_ms=float(p99),
        within_1_s=soon[0],
        within_2_s=soon[1],
        within_5_s=soon[2],
        tpot_p50_ms=median(trial["tpot_ms"] for trial in trials),
        speedup=median(ratios),
        speedup_low=min(ratios),
        speedup_high=max(ratios),
        ideal_speedup=ideal,
        share_of_ideal=None if ideal is None else median(ratios) / ideal,
        ttft_speedup=float(median(waits)),
        ttft_ideal=ttft_ideal,
        ideal_as_decoded=as_decoded,
        kv_blocks=max(trial["kv_blocks"] for trial in trials),
        kv_blocks_per_request=blocks,
        kv_capacity_requests=(cache["blocks"] - 1) // blocks,
        running=max(trial["running"] for trial in trials),
        preemptions=summed(trials, "preemptions"),
        prefix_hits=summed(trials, "prefix_hits"),
        others=fmean(trial["others"] for trial in trials),
    )


def summed(records: Iterable[Record], name: str) -> int:
    """Return the sum of a number over records."""
    return sum(record[name] for record in records)


def _decoding(trials: list[Record]) -> float:
    """Return the milliseconds from the first token of an answer to its last."""
    return median(trial["tpot_ms"] * (trial["answer_tokens"] - 1) for trial in trials)


def _rate(trial: Record) -> float:
    """Return requests per second."""
    return trial["requests"] / trial["seconds"]
