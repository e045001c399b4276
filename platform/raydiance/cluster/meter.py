"""What a job costs: processor seconds, and seconds of GPUs held."""

import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["Meter"]


class Meter:
    """Adds up a job's cost: the processor time of this process and the children it has waited for, the
    processor time of tasks, and what workers of Ray Train hold, whether they use it or not.
    """

    def __init__(self) -> None:
        self._cpu_s = self._gpu_s = 0.0
        self._began_s = _own_cpu_s()

    def add(self, cpu_s: float, gpu_s: float = 0.0) -> None:
        """What was spent in another process."""
        self._cpu_s += cpu_s
        self._gpu_s += gpu_s

    @property
    def elsewhere(self) -> tuple[float, float]:
        """CPU and GPU seconds without those of this process and its children."""
        return self._cpu_s, self._gpu_s

    @contextmanager
    def reserved(self, *, cpus: float = 0.0, gpus: float = 0.0) -> Iterator[None]:
        """So many cores of other processes and so many GPUs are held while the block runs."""
        began_s = time.monotonic()
        try:
            yield
        finally:
            held_s = time.monotonic() - began_s
            self._cpu_s += cpus * held_s
            self._gpu_s += gpus * held_s

    def read(self) -> dict[str, float]:
        """The cost so far as metrics."""
        return {"cpu_seconds": self._cpu_s + _own_cpu_s() - self._began_s, "gpu_seconds": self._gpu_s}


def _own_cpu_s() -> float:
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)
