"""Progress of a worker shown where the job was started, through the key-value table that every Ray has."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from raydiance.tracking import Progress, Task

__all__ = ["RelayedProgress", "shown"]

PERIOD_S = 0.5
NAMESPACE = "raydiance.progress"


@dataclass(frozen=True)
class RelayedProgress:
    """Writes how far a worker is under a key, at most every half second; it can be pickled."""

    key: str

    @contextmanager
    def task(self, name: str, total: int) -> Iterator[Task]:
        task = _RelayedTask(self.key, name, total)
        yield task
        task.write()


class _RelayedTask:
    def __init__(self, key: str, name: str, total: int) -> None:
        self._key, self._name, self._total = key, name, total
        self._done, self._values, self._next_s = 0, dict[str, float](), 0.0

    def update(self, n: int = 1, **values: float) -> None:
        self._done += n
        self._values.update(values)
        if time.monotonic() >= self._next_s:
            self.write()

    def write(self) -> None:
        from ray.experimental.internal_kv import _internal_kv_put

        state = {"name": self._name, "total": self._total, "done": self._done, "values": self._values}
        _internal_kv_put(self._key, json.dumps(state), namespace=NAMESPACE)
        self._next_s = time.monotonic() + PERIOD_S


@contextmanager
def shown(progress: Progress, key: str) -> Iterator[None]:
    """Show what is written under the key while the block runs."""
    from ray.experimental.internal_kv import _internal_kv_del

    finished = threading.Event()
    viewer = threading.Thread(target=_follow, args=(progress, key, finished), daemon=True)
    viewer.start()
    try:
        yield
    finally:
        finished.set()
        viewer.join()
        _internal_kv_del(key, namespace=NAMESPACE)


def _follow(progress: Progress, key: str, finished: threading.Event) -> None:
    """A task for each name that appears; a worker that starts over is shown once it is past its old mark."""
    from ray.experimental.internal_kv import _internal_kv_get

    with ExitStack() as stack:
        name, done = None, 0
        while True:
            last = finished.wait(PERIOD_S)
            if state := json.loads(_internal_kv_get(key, namespace=NAMESPACE) or "null"):
                if state["name"] != name:
                    stack.close()
                    name, done = state["name"], 0
                    task = stack.enter_context(progress.task(name, state["total"]))
                if state["done"] > done:
                    task.update(state["done"] - done, **state["values"])
                    done = state["done"]
            if last:
                return
