"""Metrics with steps, kept beside the record of runs: for tables, DVC's plots and the report."""

from collections.abc import Mapping
from typing import Any, cast

from raydiance.tracking import Tracker

__all__ = ["Curves", "recording"]


class Curves:
    """What was logged at which step; `rows` is the table."""

    def __init__(self) -> None:
        self._rows: dict[int, dict[str, float]] = {}

    def add(self, metrics: Mapping[str, float], step: int) -> None:
        self._rows.setdefault(step, {}).update({name: float(value) for name, value in metrics.items()})

    def extend(self, other: "Curves") -> None:
        for step, metrics in other._rows.items():
            self.add(metrics, step)

    @property
    def rows(self) -> list[dict[str, object]]:
        """A row for each step, in order."""
        return [{"step": step, **self._rows[step]} for step in sorted(self._rows)]


class _Recording:
    """A tracker that passes everything on and keeps the metrics with steps."""

    def __init__(self, tracker: Tracker, curves: Curves) -> None:
        self._tracker, self._curves = tracker, curves

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tracker, name)

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        if step is not None:
            self._curves.add(metrics, step)
        self._tracker.log_metrics(metrics, step)


def recording(tracker: Tracker, curves: Curves) -> Tracker:
    """The tracker, with an ear for metrics that have a step."""
    return cast(Tracker, _Recording(tracker, curves))
