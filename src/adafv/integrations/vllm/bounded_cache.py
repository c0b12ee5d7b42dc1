"""Keep what was used last, in bounded memory."""

from collections import OrderedDict
from threading import Lock
from typing import Generic, TypeVar

__all__ = ["ENTRY", "BoundedCache"]

Value = TypeVar("Value")
ENTRY = 4096
"""Bytes that Python needs for an entry, however small its value: many tiny images count, too."""


class BoundedCache(Generic[Value]):
    """The most recently used values, by their hash, in bounded memory; threads may share it.

    Args:
        bytes: how much they may use.

    Attributes:
        used: bytes that they use.
        reused, evicted: how often.
    """

    def __init__(self, bytes: float) -> None:
        self.bytes = int(bytes)
        self.used = 0
        self.reused = 0
        self.evicted = 0
        # the least recently used first, each with its size
        self._kept: OrderedDict[str, tuple[Value, int]] = OrderedDict()
        self._lock = Lock()

    def resize(self, bytes: float) -> None:
        """Let the values use so much memory from now on."""
        with self._lock:
            self.bytes = int(bytes)
            self._evict()

    def clear(self) -> None:
        """Forget all values."""
        with self._lock:
            self._kept.clear()
            self.used = 0

    def find(self, key: str) -> Value | None:
        """Return a value that is kept, or None."""
        with self._lock:
            if key not in self._kept:
                return None
            self._kept.move_to_end(key)
            self.reused += 1
            return self._kept[key][0]

    def put(self, key: str, value: Value, size: int) -> None:
        """Keep a value, and evict those that were not used for longest where there is no room.

        Args:
            size: of the value, in bytes. One that is larger than the memory is not kept: it would
                evict all others and go itself.
        """
        if size > self.bytes:
            return
        with self._lock:
            # two threads may have made the same
            _, before = self._kept.pop(key, (None, 0))
            self._kept[key] = (value, size)
            self.used += size - before
            self._evict()

    def _evict(self) -> None:
        while self.used > self.bytes:
            _, (_, size) = self._kept.popitem(last=False)
            self.used -= size
            self.evicted += 1
