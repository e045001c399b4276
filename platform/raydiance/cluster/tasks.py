"""Run.map over Ray tasks: ordered results, a bounded number of tasks in flight."""

import itertools
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from raydiance.cluster.meter import Meter
from raydiance.cluster.session import session
from raydiance.config.platform import ClusterSpec
from raydiance.errors import ClusterError

__all__ = ["TaskMap", "result_of"]

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class TaskMap:
    """An ordered map over Ray tasks; the function is a module-level one, items and results can be pickled.

    At most twice `spec.num_tasks` are in flight, so a long list never fills the object store. What the
    function raises is raised here as itself; a task whose worker died is run again by Ray.
    """

    spec: ClusterSpec
    meter: Meter = field(default_factory=Meter)

    def __call__(self, function: Callable[[T], R], items: Sequence[T], /) -> Iterator[R]:
        with session(self.spec):
            import ray

            remote: Any = ray.remote(num_cpus=1, max_retries=self.spec.max_failures)(_timed)
            waiting = iter(items)
            flying = deque(
                remote.remote(function, item) for item in itertools.islice(waiting, 2 * self.spec.num_tasks)
            )
            try:
                while flying:
                    result, cpu_s = result_of(flying.popleft())
                    self.meter.add(cpu_s)
                    yield result
                    flying.extend(remote.remote(function, item) for item in itertools.islice(waiting, 1))
            finally:
                for task in flying:
                    ray.cancel(task)


def _timed(function: Callable[[T], R], item: T) -> tuple[R, float]:
    """What the function gives, and the processor time it took."""
    began = time.process_time()
    result = function(item)
    return result, time.process_time() - began


def result_of(task: Any) -> Any:
    """What a task gives. What it raises is raised here as itself; ClusterError if it was lost."""
    import ray

    try:
        return ray.get(task)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None
    except ray.exceptions.RayError as error:
        raise ClusterError(f"a task was lost: {str(error).splitlines()[0]}") from error
