"""Sessions of a measurement: only what one of them has timed is compared.

A resumed run is another session: its machine may be slower, whatever repetition it is in.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from client import Trial

__all__ = ["Turn", "compared", "next_session", "todo", "turn_of"]

STOCK = "stock"
TRIAL = ("repeat", "concurrency", "engine", "keep", "question")
"""The fields of a `client.Trial`, whose module needs a server's packages."""
Record = dict[str, Any]
Turn = tuple[int, int, int, str]
"""session, repetition, requests at once, question"""


def turn_of(record: Record) -> Turn:
    """Return within what the machine is taken to be the same."""
    # records of earlier versions are of one session
    session = record.get("session", 1)
    return session, record["repeat"], record["concurrency"], record.get("question", "new")


def next_session(records: Iterable[Record]) -> int:
    """Return the number of the session after those of the trials that are there."""
    return 1 + max((turn_of(record)[0] for record in _trials(records)), default=0)


def compared(records: Iterable[Record]) -> list[Record]:
    """Return the trials that have stock vLLM of their turn beside them; a kill may prevent it."""
    trials = _trials(records)
    stock = {turn_of(record) for record in trials if record["engine"] == STOCK}
    return [record for record in trials if turn_of(record) in stock]


def todo(planned: Iterable[list["Trial"]], records: Iterable[Record]) -> list[list["Trial"]]:
    """Return what is not measured yet, and stock vLLM beside it.

    Args:
        planned: trials that belong together.
        records: of earlier sessions.
    """
    there = set()
    for record in compared(records):
        there.add(tuple(record[name] for name in TRIAL))

    planned = list(planned)
    turns = set()
    for together in planned:
        if not there.issuperset(together):
            turns.add(together[0][:2])  # repetition, requests at once

    found = []
    for together in planned:
        beside = together[0].engine == STOCK and together[0][:2] in turns
        if beside or not there.issuperset(together):
            found.append(together)
    return found


def _trials(records: Iterable[Record]) -> list[Record]:
    """Return the records of trials; others are of a server."""
    return [record for record in records if "repeat" in record]
