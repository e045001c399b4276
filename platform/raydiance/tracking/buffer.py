"""A buffer that is written out behind the caller's back, so that a training step never waits for a server."""

import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

from raydiance.errors import TrackingError

__all__ = ["Buffer"]

T = TypeVar("T")
logger = logging.getLogger("raydiance.tracking")


class Buffer(Generic[T]):
    """Collects items and hands them to `write` on another thread, in order, every `interval_s` seconds.

    A write that fails with TrackingError is told in the log; the caller goes on.
    """

    def __init__(self, write: Callable[[Sequence[T]], None], interval_s: float = 1.0) -> None:
        self._write = write
        self._interval_s = interval_s
        self._items: list[T] = []
        self._lock = threading.Lock()
        self._hurry = threading.Event()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="tracking")
        self._pending: Future[None] | None = None

    def put(self, item: T) -> None:
        """Add an item; returns at once."""
        with self._lock:
            self._items.append(item)
            if self._pending is None or self._pending.done():
                self._pending = self._pool.submit(self._drain)

    def flush(self) -> None:
        """Returns when everything put so far has been written, or told as lost."""
        self._hurry.set()
        while True:
            with self._lock:
                pending, left = self._pending, bool(self._items)
            if pending is not None:
                pending.result()
            if not left:
                break
            self._drain()
        self._hurry.clear()

    def close(self) -> None:
        """Flush, and end the thread."""
        self.flush()
        self._pool.shutdown()

    def _drain(self) -> None:
        while True:
            self._hurry.wait(self._interval_s)
            with self._lock:
                items, self._items = self._items, []
            if not items:
                return
            try:
                self._write(items)
            except TrackingError as error:
                logger.error("%d entries of the run's record are lost: %s", len(items), error)
