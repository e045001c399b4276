"""Places for requests under way: refused early what cannot be taken on, where refusing costs little.

Serve's proxy has one set of them, the gateway another; both know how much the replicas take on together.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from raydiance.config.platform import ServeSpec
from raydiance.serving.problems import OverloadError

__all__ = ["Places", "most_of"]


def most_of(spec: ServeSpec) -> int:
    """How many samples all replicas have in progress and waiting."""
    return (spec.max_replicas or spec.replicas) * (spec.slots + spec.queue)


class Places:
    """So many places; where all are taken, a client still gets one if it has less than an even share of them."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._taken: Counter[str] = Counter()

    @property
    def taken(self) -> int:
        """How many there are under way."""
        return self._taken.total()

    @contextmanager
    def one(self, client: str) -> Iterator[None]:
        """A place while the block runs. Raises OverloadError."""
        share = self._most / len({*self._taken, client})
        if self.taken >= self._most and self._taken[client] >= share:
            raise OverloadError(f"{self.taken} requests are under way; try again later", 1.0)
        self._taken[client] += 1
        try:
            yield
        finally:
            self._taken[client] -= 1
            if not self._taken[client]:
                del self._taken[client]
