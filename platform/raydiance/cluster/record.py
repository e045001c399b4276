"""The MLflow runs of a job: one for the pipeline, one below it for each stage."""

import hashlib
import os
from collections.abc import Callable
from functools import partial

from raydiance.cluster.pointers import FOLDER
from raydiance.config import Experiment
from raydiance.config.stages import STAGES
from raydiance.tracking import NullTracker, Tracker

__all__ = ["connect_to", "open_record", "tracking_url"]


def tracking_url(experiment: Experiment) -> str | None:
    """The address given in the settings or the environment; None for the embedded default."""
    return (
        experiment.tracking.url
        or os.environ.get("RAYDIANCE_TRACKING")
        or os.environ.get("MLFLOW_TRACKING_URI")
    )


def open_record(experiment: Experiment, stage: str, name: str, parent: str | None) -> Tracker:
    """The stage's run, below the pipeline's run: the one that its data came from, or a new one."""
    if experiment.tracking.kind == "none":
        return NullTracker()
    from raydiance.tracking.mlflow import open_tracker

    return open_tracker(
        tracking_url(experiment),
        experiment.name,
        name,
        parent_id=parent,
        tags={"stage": stage, "size": experiment.size, "seed": str(experiment.seed), **_dvc_hashes(stage)},
        description=f"Stage **{stage}** of experiment `{experiment.name}`, size `{experiment.size}`.",
    )


def connect_to(experiment: Experiment, tracker: Tracker) -> Callable[[], Tracker]:
    """How a worker on another machine writes into the same run."""
    if tracker.run_id is None:
        return NullTracker
    from raydiance.tracking.mlflow import MlflowTracker, open_tracker

    assert isinstance(tracker, MlflowTracker)
    return partial(open_tracker, tracker.url, experiment.name, run_id=tracker.run_id)


def _dvc_hashes(stage: str) -> dict[str, str]:
    """The MD5 of each pointer that the stage reads: what dvc.lock writes down for the same files."""
    paths = [FOLDER / f"{name}.json" for name in STAGES[stage]]
    return {
        f"dvc.{path}.md5": hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
        for path in paths
        if path.exists()
    }
