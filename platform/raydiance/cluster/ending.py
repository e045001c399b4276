"""How workers of Ray Train are told to end between two steps: by the run's process, or as their node goes."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from raydiance.tracking import by_signal

__all__ = ["Told", "hear", "passed_on"]

PERIOD_S = 0.5
NAMESPACE = "raydiance.ending"
LOOKING, TOLD = "looking", "told"  # what is written under a key: by a worker that trains, by who tells it


@contextmanager
def passed_on(key: str) -> Iterator[Callable[[], int]]:
    """While the block runs, a signal to this process is told to the workers of the key, if they look between
    steps; else it acts at once, and so does a second one. Gives the number of the signal, 0 for none.
    """
    from ray.experimental.internal_kv import _internal_kv_del

    finished = threading.Event()
    with by_signal() as told:
        teller = threading.Thread(target=_tell, args=(key, told, finished), daemon=True)
        teller.start()
        try:
            yield told
        finally:
            finished.set()
            teller.join()
            _internal_kv_del(key, namespace=NAMESPACE)


def _tell(key: str, told: Callable[[], int], finished: threading.Event) -> None:
    from ray.experimental.internal_kv import _internal_kv_get, _internal_kv_put

    while not finished.wait(PERIOD_S):
        if number := told():
            if _internal_kv_get(key, namespace=NAMESPACE):
                _internal_kv_put(key, TOLD, namespace=NAMESPACE)
            else:
                os.kill(os.getpid(), number)
            return


@dataclass(frozen=True)
class Told:
    """The `ending` of a worker: told under the key (to rank 0), by a signal to its process, or by Ray, where its
    node is drained.
    """

    key: str
    rank: int

    @contextmanager
    def __call__(self) -> Iterator[Callable[[], int]]:
        from ray.experimental.internal_kv import _internal_kv_put

        finished = threading.Event()
        _process.told = 0
        if self.rank == 0:
            _internal_kv_put(self.key, LOOKING, overwrite=False, namespace=NAMESPACE)
        listener = threading.Thread(target=self._listen, args=(finished,), daemon=True)
        listener.start()
        _process.looks = True
        try:
            yield lambda: _process.told
        finally:
            _process.looks = False
            finished.set()
            listener.join()

    def _listen(self, finished: threading.Event) -> None:
        from ray.experimental.internal_kv import _internal_kv_del, _internal_kv_get
        from ray.train.v2._internal.execution.context import get_train_context

        while not finished.wait(PERIOD_S):
            if get_train_context().preemption_context.preemption_info is not None or (
                self.rank == 0 and _internal_kv_get(self.key, namespace=NAMESPACE) == TOLD.encode()
            ):
                _process.told = _process.told or signal.SIGTERM
                return
        if self.rank == 0:
            _internal_kv_del(self.key, namespace=NAMESPACE)


@dataclass
class _Process:
    """Of this worker's process: whether its training looks for a signal, and which one came."""

    looks: bool = False
    told: int = 0


_process = _Process()


def hear() -> None:
    """Have this worker's process hear SIGTERM, which it gets where its node is taken away.

    For its first thread to call, the only one that may; the training runs in another.
    """
    before = signal.getsignal(signal.SIGTERM)

    def tell(number: int, frame: FrameType | None) -> None:
        if _process.looks and not _process.told:
            _process.told = number
        elif callable(before):
            before(number, frame)

    signal.signal(signal.SIGTERM, tell)
