"""How soon first tokens come when many requests come at once, by what counts as encoded."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from cluster import Cluster, Limits, Request, simulate
from scale import ROUNDS, questions
from stages import SHARED, VISUAL, Stages

from adafv.ops.budget import num_keep

__all__ = ["LOADS", "Burst", "bursts"]

LOADS = ("burst", "measured", "mixed")
"""burst: all come at once, and no others. measured: as in the measurement, with as many under way
all the time until twice as many are answered. mixed: the same for ten times as many, and not all
answers are equally long.
"""
AT_ONCE = (8, 32)
BUDGETS = (0.25, 0.1, 0.05)
RULES = {"kept": Limits(), "all": Limits(count_all=True)}
"""Which visual tokens of an image the limit on what is encoded in a step counts."""


@dataclass(frozen=True)
class Burst:
    """What requests wait that come at once.

    Attributes:
        counted: "kept" or "all", see `RULES`; where all tokens are kept there is no difference.
        ttft_speedup: of the median against all tokens kept.
        floor_ms: of a burst; no order of steps gives half of it a first token sooner, see `floor`.
        tower_ms: the same of the tower alone, as if a prompt took no time.
    """

    load: str
    at_once: int
    keep: float
    counted: str
    requests_per_s: float
    ttft_p50_ms: float
    ttft_p95_ms: float
    tpot_p50_ms: float
    ttft_speedup: float
    floor_ms: float | None
    tower_ms: float | None


def bursts(stages: Stages) -> Iterator[Burst]:
    """Yield each load, dense and at each budget, by either rule."""
    for load in LOADS:
        for at_once in AT_ONCE:
            dense = _burst(stages, load, at_once, 1.0, "kept")
            yield dense
            for keep in BUDGETS:
                for counted in RULES:
                    yield _burst(stages, load, at_once, keep, counted, dense.ttft_p50_ms)


def floor(stages: Stages, at_once: int, keep: float) -> tuple[float, float]:
    """Return the least median of seconds to the first token in a burst, and the tower's part.

    One engine encodes an image and reads a prompt after the other, first come, first served, and
    no answer is continued meanwhile: the k-th first token comes after k of them.
    """
    half = (at_once + 1) / 2
    prompt = stages.chunk(0, num_keep(VISUAL, keep) + SHARED) + stages.write
    select = stages.select if keep < 1 else 0.0
    first = stages.front + stages.step
    return first + half * (stages.tower + select + prompt), half * stages.tower


def _burst(
    stages: Stages, load: str, at_once: int, keep: float, counted: str, dense_ms: float = 0.0
) -> Burst:
    simulation = simulate(
        Cluster(limits=RULES[counted]), stages, _requests(load, at_once, keep), at_once
    )
    finished = simulation.finished
    ttft = 1000 * np.array([request.ttft for request in finished])
    p50, p95 = map(float, np.percentile(ttft, [50, 95]))
    tpot = 1000 * float(np.median([request.tpot for request in finished]))
    rate = len(finished) / simulation.now
    # where others follow, a request need not wait for half of those that came with it
    least = tower = None
    if load == "burst":
        least, tower = (1000 * seconds for seconds in floor(stages, at_once, keep))
    return Burst(
        load,
        at_once,
        keep,
        counted,
        rate,
        p50,
        p95,
        tpot,
        (dense_ms or p50) / p50,
        least,
        tower,
    )


def _requests(load: str, at_once: int, keep: float) -> list[Request]:
    if load == "mixed":
        return questions(at_once * ROUNDS, keep, 0.0)
    visual = num_keep(VISUAL, keep)
    count = at_once if load == "burst" else max(10, 2 * at_once)
    return [Request(visual + SHARED, visual, pruned=keep < 1) for _ in range(count)]
