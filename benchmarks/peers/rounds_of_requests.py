"""What every engine is asked: a question about a new image, one request at a time.

An engine's script runs in the environment of that engine, so this needs nothing of the library.
"""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

__all__ = ["DENSE", "QUESTION", "Case", "ask_all", "cases_of", "parse", "picture"]

QUESTION = "what is there in the image? say it in one word."

DENSE = "dense"
"""The method that keeps all tokens."""
Ask = Callable[["Case", np.ndarray], int]
"""Asks about an image (side, side, 3), waits for the first token, and returns the prompt's length,
visual tokens that were kept included."""


@dataclass(frozen=True)
class Case:
    """How an engine is asked: with which method, and which share of the visual tokens."""

    engine: str
    method: str
    keep: float


def cases_of(engine: str, methods: Sequence[str], keeps: Sequence[float]) -> list[Case]:
    """Return all tokens, then each method at each budget."""
    cases = [Case(engine, DENSE, 1.0)]
    for method in methods:
        cases += [Case(engine, method, keep) for keep in keeps]
    return cases


def parse(program: str) -> argparse.Namespace:
    """Parse the command line of an engine's script."""
    parser = argparse.ArgumentParser(description=program)
    parser.add_argument("model", type=Path)
    parser.add_argument("--side", type=int, required=True, help="of the square images, in pixels")
    parser.add_argument("--keep", type=float, nargs="+", required=True)
    parser.add_argument("--rounds", type=int, required=True)
    parser.add_argument("--dtype", required=True, help="that the engine computes in")
    return parser.parse_args()


def picture(side: int, seed: int) -> np.ndarray:
    """Return noise (side, side, 3); what an image shows doesn't change how long it takes."""
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)


def ask_all(cases: Sequence[Case], ask: Ask, side: int, rounds: int) -> None:
    """Ask each case once a round, in an order that turns, and print a line for each answer.

    No image is shown twice, so that nothing kept of an earlier one helps. The first round warms up.
    """
    seed = 0
    for number in range(rounds + 1):
        first = number % len(cases)
        for case in (*cases[first:], *cases[:first]):
            image = picture(side, seed)
            seed += 1
            start = time.perf_counter()
            read = ask(case, image)
            ms = 1000 * (time.perf_counter() - start)
            if number:
                print(json.dumps(asdict(case) | {"ms": ms, "read": read}), flush=True)
