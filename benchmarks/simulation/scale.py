"""Requests a second of clusters, by budget, encoders, and images that were asked about before."""

import random
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from cluster import Cluster, Request, simulate
from stages import ANSWER, SHARED, VISUAL, Stages

from adafv.ops.budget import num_keep

__all__ = [
    "BUDGETS",
    "HITS",
    "SIZES",
    "Latency",
    "Placed",
    "Scaled",
    "latencies",
    "places",
    "scale",
]

SIZES = (1, 2, 4, 8)
"""Workers, encoders of their own included."""
BUDGETS = (1.0, 0.5, 0.25, 0.1, 0.05)
HITS = (0.0, 0.5, 0.9, 0.99)
"""Shares of requests about an image that was asked about before."""
SEATS = 32
"""Requests at once for each worker."""
ROUNDS = 10
"""Requests for each of them."""
ANSWERS = (8, 24)
"""Fewest and most tokens of an answer: 16 as measured, but not all at the same time."""
LOAD = 0.7
"""Of the requests a second that a cluster with shared encoders can answer."""
BYTES = 2 * 1024
"""Of a visual token's embedding: bfloat16."""


@dataclass(frozen=True)
class Work:
    """Seconds of an engine that a request takes, with all seats taken.

    Attributes:
        answer: 15 tokens after the first; a step is shared by `SEATS` requests.
        encoders: for each worker, if neither is to wait for the other.
    """

    keep: float
    tower: float
    select: float
    prompt: float
    answer: float
    encoders: float


@dataclass(frozen=True)
class Scaled:
    """Requests a second of a cluster.

    Attributes:
        size: workers and encoders together.
        encoders: 0: each worker encodes for itself.
        prefix: where an image was asked about before, a dense prompt's prefix is kept.
    """

    size: int
    encoders: int
    keep: float
    hits: float
    prefix: bool
    requests_per_s: float


@dataclass(frozen=True)
class Placed:
    """A place to select, with as many encoders as are best there.

    Attributes:
        bytes: of embeddings that travel for a request.
    """

    select_at: str
    encoders: int
    keep: float
    hits: float
    requests_per_s: float
    bytes: int


@dataclass(frozen=True)
class Latency:
    """How long requests wait that come as they like, and not as soon as another one is done."""

    encoders: int
    keep: float
    arrivals_per_s: float
    ttft_p50_ms: float
    ttft_p95_ms: float
    tpot_p50_ms: float
    tpot_p95_ms: float


def works(stages: Stages) -> Iterator[Work]:
    """Yield what a request takes at each budget."""
    for keep in BUDGETS:
        select = stages.select if keep < 1 else 0.0
        prompt = num_keep(VISUAL, keep) + SHARED
        reading = stages.chunk(0, prompt) + stages.write
        token = stages.step / SEATS + stages.decode(prompt + ANSWER // 2) + stages.write
        answer = (ANSWER - 1) * token
        encoders = (stages.tower + select) / (reading + answer)
        yield Work(keep, stages.tower, select, reading, answer, encoders)


def rate(cluster: Cluster, stages: Stages, keep: float, hits: float, prefix: bool = False) -> float:
    """Return the requests a second that a cluster answers when there are always enough.

    Args:
        cluster: what serves.
        stages: what it takes.
        keep: share of an image's visual tokens.
        hits: share of requests about an image that was asked about before. The encoding of a
            pruned one is kept.
        prefix: dense prompts of those find their prefix in the KV cache.
    """
    at_once = SEATS * (cluster.workers + cluster.encoders)
    requests = questions(at_once * ROUNDS, keep, hits, prefix=prefix)
    finished = simulate(cluster, stages, requests, at_once).finished
    # without the beginning and the end, when engines wait for work
    start = len(finished) // 4
    end = 3 * start
    return (end - start) / (finished[end].last - finished[start].last)


def questions(count: int, keep: float, hits: float, *, prefix: bool = False) -> list[Request]:
    """Return requests: the same answers and the same repeated images each time; see `rate`."""
    draws = random.Random(0)
    visual = num_keep(VISUAL, keep)
    found = []
    for _ in range(count):
        request = Request(visual + SHARED, visual, pruned=keep < 1)
        request.answer = draws.randint(*ANSWERS)
        again = draws.random() < hits
        # encodings are kept of pruned images alone: the served engine encodes a dense one anew,
        # where its prefix was found, too
        request.known = again and request.pruned
        if again and prefix:
            request.found = VISUAL
        found.append(request)
    return found


def scale(stages: Stages) -> Iterator[Scaled]:
    """Yield every size of a cluster, with every number of encoders."""
    for size in SIZES:
        for keep, prefix in (*((keep, False) for keep in BUDGETS), (1.0, True)):
            for hits in HITS:
                # where every prefix is on its own worker, encoders of their own are no use
                for encoders in range(1 if prefix else size):
                    cluster = Cluster(size - encoders, encoders)
                    found = rate(cluster, stages, keep, hits, prefix)
                    yield Scaled(size, encoders, keep, hits, prefix, found)


def places(stages: Stages) -> Iterator[Placed]:
    """Yield each place to select, on the largest cluster."""
    size = SIZES[-1]
    for keep in BUDGETS[1:]:
        for hits in (0.0, 0.9):
            for place in ("encoder", "both", "worker"):
                best = (0.0, 0)
                for encoders in range(1, size):
                    cluster = Cluster(size - encoders, encoders, place)
                    best = max(best, (rate(cluster, stages, keep, hits), encoders))
                tokens = VISUAL if place == "worker" else num_keep(VISUAL, keep)
                yield Placed(place, best[1], keep, hits, best[0], tokens * BYTES)


def latencies(stages: Stages, scaled: list[Scaled]) -> Iterator[Latency]:
    """Yield what requests wait on the largest cluster, with shared and with separate encoders."""
    size = SIZES[-1]
    for keep in BUDGETS:
        rates = {}
        for row in scaled:
            if (row.size, row.keep, row.hits, row.prefix) == (size, keep, 0.0, False):
                rates[row.encoders] = row.requests_per_s
        shared = rates.pop(0)
        arrivals = LOAD * shared
        for encoders in (0, max(rates, key=lambda encoders: rates[encoders])):
            requests = questions(SEATS * size * ROUNDS, keep, 0.0)
            draws = random.Random(1)
            now = 0.0
            for request in requests:
                now += draws.expovariate(arrivals)
                request.arrived = now
            cluster = Cluster(size - encoders, encoders)
            simulate(cluster, stages, requests)
            ttft = np.percentile([1000 * request.ttft for request in requests], [50, 95])
            tpot = np.percentile([1000 * request.tpot for request in requests], [50, 95])
            yield Latency(encoders, keep, arrivals, *map(float, (*ttft, *tpot)))
