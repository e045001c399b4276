"""The MLflow runs of a job: one for the pipeline, one below it for each stage."""

import os
from collections.abc import Callable
from functools import partial

from raydiance.config import Experiment
from raydiance.tracking import NullTracker, Tracker

__all__ = ["connect_to", "open_record", "tracking_url"]


def tracking_url(experiment: Experiment) -> str | None:
    """The address given in the settings or the environment; None for the embedded default."""
    return (
        experiment.tracking.url
        or os.environ.get("RAYDIANCE_TRACKING")
        or os.environ.get("MLFLOW_TRACKING_URI")
        or None
    )


def open_record(experiment: Experiment, stage: str, name: str, parent: str | None) -> Tracker:
    """The stage's run, below the pipeline's run: the one that its data came from, or a new one."""
    if experiment.tracking.kind == "none":
        return NullTracker()
    from raydiance.tracking.mlflow import open_tracker  # type: ignore[import-not-found]

    url = tracking_url(experiment)
    return open_tracker(url, experiment.name, name, parent_id=parent, tags={"stage": stage})


def connect_to(experiment: Experiment, tracker: Tracker) -> Callable[[], Tracker]:
    """How a worker on another machine writes into the same run."""
    if tracker.run_id is None:
        return NullTracker
    from raydiance.tracking.mlflow import open_tracker  # type: ignore[import-not-found]

    return partial(open_tracker, tracking_url(experiment), experiment.name, run_id=tracker.run_id)
