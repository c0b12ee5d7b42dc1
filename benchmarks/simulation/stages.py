"""What each stage of a request takes, from rows of the measurement with one request at a time."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["ANSWER", "SHARED", "VISUAL", "Stages", "calibrate", "measured"]

BENCHMARKS = Path(__file__).parents[1]
MEASURED = BENCHMARKS / "serving" / "results.json"
SELECTION = BENCHMARKS / "speed" / "selection" / "selection.json"
ANSWER = 16
"""Tokens of every answer of the measurement."""
VISUAL = 576
"""Visual tokens of its images."""
WIDTH, INNER = 1024, 2816
"""Of its language model, `llava-0.4b`."""
PAIR = 4 * WIDTH / (2 * (4 * WIDTH**2 + 3 * WIDTH * INNER))
"""FLOPs of a token that looks at one other, in FLOPs of the matrices that a token goes through."""
WRITERS = (8, 0.05)
"""Requests at once and share kept of the row that says what a written token takes."""
SHARED = 20
"""Tokens that a dense prompt reads again after its prefix was found: all but 576 of 596."""

Row = dict[str, Any]


@dataclass(frozen=True)
class Stages:
    """Seconds that each stage takes.

    Attributes:
        front: of a request before the engine: HTTP, decoding and preparing the image, tokenizing.
        tower: of an image.
        select: of an image of which something is dropped.
        step: of a step of the engine, whatever is in it: all weights are read.
        token: of each token in a step.
        pair: of each token that looks at another one while a prompt is read.
        read: of each token in the KV cache that a token of the answer reads.
        write: of each token that is written: it goes through the front to the client, on the core
            that the scheduler waits for.
    """

    front: float
    tower: float
    select: float
    step: float
    token: float
    pair: float
    read: float
    write: float

    def chunk(self, start: int, tokens: int) -> float:
        """Return the seconds of a part of a prompt, without those of its step.

        Args:
            start: tokens before it, in the KV cache.
            tokens: in it.
        """
        return tokens * self.token + tokens * (start + tokens / 2) * self.pair

    def decode(self, context: int) -> float:
        """Return the seconds of a token of the answer that is computed, without its step's."""
        return self.token + context * self.read


def measured(path: Path = MEASURED) -> list[Row]:
    """Return the rows of the measurement."""
    return json.loads(path.read_text(encoding="utf-8"))["rows"]


def selection_seconds() -> float:
    """Return what `adafv` takes to select of an image, by its own measurement.

    In the rows of the served path it is less than their noise. Measured with embeddings four
    times as wide, so more than it takes here.
    """
    found = json.loads(SELECTION.read_text(encoding="utf-8"))["rows"]
    times = {row["visual_tokens"]: row["select_ms"] for row in found if row["method"] == "adafv"}
    least = min(times)
    return times[least] / least * VISUAL / 1000


def calibrate(rows: list[Row]) -> Stages:
    """Return the stages that explain the rows with one request at a time.

    Least squares of the relative errors of 10 times to the first token and 10 times of a token.
    With one request at a time, a token that is written cannot be told from a step. What it takes is
    the one thing that comes from another row: seconds of a token with `WRITERS`.
    """
    select = selection_seconds()
    # a column for each unknown: front, tower, step, token, read
    left = []
    right = []
    seconds = []
    for row in rows:
        if row["concurrency"] != 1:
            continue
        prompt = row["prompt_tokens"]
        pruned = row["keep"] < 1
        again = row["question"] == "again"

        # a dense image that was found in the prefix cache is encoded anew: its last tokens are in
        # a block that was not full; the encoding of a pruned one is kept
        encoded = not (again and pruned)
        start = prompt - SHARED if again and not pruned else 0
        tokens = prompt - start
        # up to the first token; pairs are counted in tokens
        equal = tokens + tokens * (start + tokens / 2) * PAIR
        left.append([1, encoded, 1, equal, 0])
        right.append(row["ttft_p50_ms"] / 1000 - pruned * select)
        seconds.append(row["ttft_p50_ms"] / 1000)

        # a token of the answer, half way
        left.append([0, 0, 1, 1, prompt + ANSWER / 2])
        right.append(row["tpot_p50_ms"] / 1000)
        seconds.append(row["tpot_p50_ms"] / 1000)

    weights = 1 / np.array(seconds)
    found, *_ = np.linalg.lstsq(
        np.array(left) * weights[:, None], np.array(right) * weights, rcond=None
    )
    front, tower, step, token, read = (float(value) for value in found)

    # with eight requests each step computes eight tokens, and writes seven more than with one
    concurrency = WRITERS[0]
    for row in rows:
        if (row["concurrency"], row["keep"]) == WRITERS:
            computed = step + concurrency * (token + (row["prompt_tokens"] + ANSWER / 2) * read)
            write = (row["tpot_p50_ms"] / 1000 - computed) / (concurrency - 1)
    # the last digits of a fit depend on the processor, and who comes first where two are as good
    # as equal depends on them
    found = (front, tower, select, step - write, token, PAIR * token, read, write)
    return Stages(*(float(f"{value:.9g}") for value in found))
