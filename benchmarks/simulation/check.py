"""What was measured beside what is simulated, row by row."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from cluster import Cluster, Request, simulate
from stages import ANSWER, SHARED, WRITERS, Row, Stages

__all__ = ["TOLERANCE", "Quantity", "Verdict", "checked", "verdicts"]

TOLERANCE = 0.15
QUANTITIES = ("requests_per_s", "ttft_p50_ms", "ttft_p95_ms", "tokens_per_s", "kv_blocks")
"""What the table of the measurement shows of a row."""
BESIDES = "tpot_p50_ms"
"""What its file shows besides."""


@dataclass(frozen=True)
class Quantity:
    """A number of a row, measured and simulated.

    Attributes:
        calibrated: the number went into the stages.
        ratio: of simulated to measured.
        within: the ratio is not further from 1 than `TOLERANCE`.
    """

    engine: str
    keep: float
    concurrency: int
    question: str
    quantity: str
    calibrated: bool
    measured: float
    simulated: float
    ratio: float
    within: bool


def checked(rows: list[Row], stages: Stages) -> Iterator[Quantity]:
    """Yield every quantity of every row of the measurement."""
    for row in rows:
        simulated = _simulated(row, stages)
        for name in (*QUANTITIES, BESIDES):
            known = row["concurrency"] == 1 and name in ("ttft_p50_ms", BESIDES)
            known |= (row["concurrency"], row["keep"], name) == (*WRITERS, BESIDES)
            ratio = simulated[name] / row[name]
            yield Quantity(
                row["engine"],
                row["keep"],
                row["concurrency"],
                row["question"],
                name,
                known,
                row[name],
                simulated[name],
                ratio,
                abs(ratio - 1) <= TOLERANCE,
            )


@dataclass(frozen=True)
class Verdict:
    """How much is reproduced of what no stage was calibrated with.

    Attributes:
        about: which rows, and which of their numbers.
        rows, rows_within: how many, and of how many every number is within `TOLERANCE`.
        numbers, numbers_within: in these rows.
        furthest: the ratio that is furthest from 1.
    """

    about: str
    rows: int
    rows_within: int
    numbers: int
    numbers_within: int
    furthest: float

    def __str__(self) -> str:
        """Return it as a sentence."""
        return (
            f"{self.about}: {self.rows_within} of {self.rows} rows and {self.numbers_within} of "
            f"{self.numbers} numbers within {100 * TOLERANCE:.0f} %, furthest × {self.furthest:.2f}"
        )


def verdicts(quantities: list[Quantity]) -> list[Verdict]:
    """Return what is reproduced of rows with several requests at once, and of the others.

    The first one is what the simulation has to hold before it is used.
    """
    several = [one for one in quantities if one.concurrency > 1]
    alone = [one for one in quantities if one.concurrency == 1]
    of_table = [one for one in several if one.quantity != BESIDES]
    return [
        _verdict("several at once, numbers of the table", of_table),
        _verdict("several at once, seconds of a token, too", several),
        _verdict("one at a time, numbers that were not calibrated", alone),
    ]


def _verdict(about: str, quantities: list[Quantity]) -> Verdict:
    counted = [one for one in quantities if not one.calibrated]
    rows: dict[tuple[str, float, int, str], bool] = {}
    for one in counted:
        name = (one.engine, one.keep, one.concurrency, one.question)
        rows[name] = rows.get(name, True) and one.within
    within = sum(one.within for one in counted)
    furthest = max((one.ratio for one in counted), key=lambda ratio: abs(ratio - 1))
    return Verdict(about, len(rows), sum(rows.values()), len(counted), within, furthest)


def _simulated(row: Row, stages: Stages) -> dict[str, float]:
    """Return what a row would be."""
    prompt = round(row["prompt_tokens"])
    pruned = row["keep"] < 1
    again = row["question"] == "again"
    requests = []
    # a repetition is as good as three
    for _ in range(row["requests"] // row["repeats"]):
        request = Request(prompt, row["visual_tokens"], pruned=pruned)
        # a second question finds the encoding if the image is pruned, or else the prefix
        request.known = again and pruned
        request.found = prompt - SHARED if again and not pruned else 0
        requests.append(request)
    simulation = simulate(Cluster(), stages, requests, row["concurrency"])

    rate = len(requests) / simulation.now
    p50, p95 = np.percentile([request.ttft for request in requests], [50, 95])
    return {
        "requests_per_s": rate,
        "ttft_p50_ms": 1000 * float(p50),
        "ttft_p95_ms": 1000 * float(p95),
        "tokens_per_s": rate * ANSWER,
        "kv_blocks": simulation.workers[0].blocks,
        "tpot_p50_ms": 1000 * float(np.median([request.tpot for request in requests])),
    }
