"""How much of its quota a store has used, without listing it at each write.

A process measures the store when it first writes, then adds what it writes and takes away what it deletes, and
measures again after REREAD_S, and before it refuses. Processes that write at the same time know of each other's
artifacts after as long: together they may go beyond the quota by what they write meanwhile.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock

__all__ = ["NoRoomError", "Usage"]

REREAD_S = 60.0


class NoRoomError(Exception):
    """A write would go beyond the quota. used: bytes, by a measurement of just now."""

    def __init__(self, used: int) -> None:
        super().__init__(used)
        self.used = used


class Usage:
    """Of one store in one process; `measure` gives the bytes that it holds."""

    def __init__(self, measure: Callable[[], int]) -> None:
        self._measure, self._lock = measure, Lock()
        self._known, self._flying, self._at = 0, 0, float("-inf")

    @contextmanager
    def taking(self, size: int, quota: int) -> Iterator[None]:
        """Room for so many bytes, which the block writes. Raises NoRoomError before it if there is none."""
        with self._lock:
            for older_than_s in (REREAD_S, 0.0):
                self._read(older_than_s)
                if fits := self._known + self._flying + size <= quota:
                    break
            if not fits:
                raise NoRoomError(self._known + self._flying)
            self._flying += size
        written = 0
        try:
            yield
            written = size
        finally:
            with self._lock:
                self._flying -= size
                self._known += written

    def freed(self, size: int) -> None:
        """So many bytes have been deleted."""
        with self._lock:
            self._known -= size

    def _read(self, older_than_s: float) -> None:
        if time.monotonic() - self._at >= older_than_s:
            self._known, self._at = self._measure(), time.monotonic()
