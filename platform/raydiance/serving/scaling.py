"""How many replicas there should be: Ray Serve asks this now and then. It runs in Serve's controller, so nothing
heavy is imported here.
"""

import math
from collections.abc import Mapping
from typing import Any

__all__ = ["Pressure", "wanted"]

FULL = 0.9  # a replica whose calls are this full, and where samples wait, cannot do more
SPARE = 0.6  # replicas that would be no fuller than this with one fewer are too many


def wanted(current: int, samples: float, slots: int, occupancy: float) -> int:
    """The number of replicas for so many samples waiting and under way on all of them together.

    slots: samples that one replica has under way at most. occupancy: how full the network's calls are on
    average, 0 to 1; as long as they have places left, waiting samples are only about to be taken on.
    """
    for_samples = max(1, math.ceil(samples / slots))
    if for_samples > current:
        return for_samples if occupancy >= FULL else current
    fewer = current - 1
    return fewer if fewer >= for_samples and occupancy * current <= SPARE * fewer else current


class Pressure:
    """The policy as Ray Serve calls it."""

    def __init__(self, slots: int) -> None:
        self._slots = slots

    def __call__(self, context: Any) -> tuple[int, dict[str, Any]]:
        told: Mapping[str, Mapping[Any, float]] = context.aggregated_metrics or {}
        samples, occupancy = (list(told.get(name, {}).values()) for name in ("samples", "occupancy"))
        if not samples:
            return context.target_num_replicas, {}
        mean = sum(occupancy) / len(occupancy) if occupancy else 0.0
        return wanted(len(samples), sum(samples), self._slots, mean), {}
