"""Note what an engine does for pruning, where the server's process can read it.

The model runs in a process of its own, of which vLLM's statistics say nothing. It writes counts
into a file that both map into memory; the server finds it by a name that only its own processes
know, and deletes it as soon as it has it. Works where both are on one machine.
"""

import atexit
import multiprocessing
import os
import secrets
import tempfile
from contextlib import suppress
from functools import cache
from pathlib import Path

import numpy as np

__all__ = ["EngineCounts", "EngineCountsReader", "name_run"]

RUN = "ADAFV_RUN"  # in the environment of a server and its engines
ENCODED, REUSED, SELECTIONS, TIMES = range(4)
ROOM = 64  # selections of which the time is known; where nobody reads, the oldest go
MICROSECONDS = 1e6


@cache
def name_run() -> None:
    """Give this process and its engines a name in common; an engine has it from its server.

    A server that another program starts gets one of its own, whatever runs in that program.
    """
    if multiprocessing.parent_process() is None or RUN not in os.environ:
        os.environ[RUN] = secrets.token_hex(16)


def _path(engine: int) -> Path:
    return Path(tempfile.gettempdir(), f"adafv-{os.environ[RUN]}-{engine}")


class EngineCounts:
    """Note what the model of one engine has done so far.

    Args:
        engine: its index.
        shared: whether the server is to read it, of several ranks the first.
    """

    def __init__(self, engine: int, *, shared: bool) -> None:
        self.counts = np.zeros(TIMES + ROOM, dtype=np.int64)
        if not shared:
            return
        path = _path(engine)
        # a full disk, or none to write to, is no reason not to serve
        with suppress(OSError):
            descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
            atexit.register(path.unlink, missing_ok=True)
            with open(descriptor, "r+b") as file:
                # all of it now: on a full disk a hole would end the process when it is written
                file.write(self.counts.tobytes())
                file.flush()
                self.counts = np.memmap(file, np.int64, "r+")

    def add_images(self, encoded: int, reused: int) -> None:
        """Note images that the tower ran, and those whose encoding was there."""
        self.counts[ENCODED] += encoded
        self.counts[REUSED] += reused

    def add_selection(self, seconds: float) -> None:
        """Note how long it took to choose the tokens of a step."""
        place = TIMES + self.counts[SELECTIONS] % ROOM
        self.counts[place] = round(seconds * MICROSECONDS)
        # the time before the count that says it is there
        self.counts[SELECTIONS] += 1


class EngineCountsReader:
    """Read what an engine has done since it was last asked.

    Args:
        engine: its index.
    """

    def __init__(self, engine: int) -> None:
        self.counts = np.zeros(TIMES + ROOM, dtype=np.int64)
        path = _path(engine)
        # an engine on another machine has written none here, and one with a full disk not all of it
        if path.exists():
            if path.stat().st_size == self.counts.nbytes:
                self.counts = np.memmap(path, np.int64, "r")
            path.unlink()
        # what vLLM has measured its memory with nobody asked for
        self.before = self.counts[:TIMES].copy()

    def read(self) -> tuple[int, int, list[float]]:
        """Return images encoded, encodings reused, and seconds of each selection."""
        now = self.counts[:TIMES].copy()
        encoded, reused, _ = (now - self.before).tolist()
        first = max(self.before[SELECTIONS], now[SELECTIONS] - ROOM)
        self.before = now
        times = [self.counts[TIMES + i % ROOM] for i in range(first, now[SELECTIONS])]
        return encoded, reused, [float(time) / MICROSECONDS for time in times]
