"""The MLflow runs of a job: one for the pipeline, one below it for each stage."""

from collections.abc import Callable, Mapping
from functools import partial

from raydiance.config import Experiment, params_text
from raydiance.storage import Artifact
from raydiance.tracking import NullTracker, Tracker

__all__ = ["INPUT", "PARAMS_FILE", "connect_to", "join_record", "open_record", "tell_how_to_repeat"]

PARAMS_FILE = "params.yaml"
INPUT = "input."


def open_record(experiment: Experiment, stage: str, name: str, parent: str | None) -> Tracker:
    """The stage's run, below the pipeline's run: the one that its data came from, or a new one."""
    if experiment.tracking.kind == "none":
        return NullTracker()
    from raydiance.tracking.mlflow import open_tracker

    return open_tracker(
        experiment.tracking.url,
        experiment.name,
        name,
        parent_id=parent,
        tags={"stage": stage, "size": experiment.size, "seed": str(experiment.seed)},
        description=f"Stage **{stage}** of experiment `{experiment.name}`, size `{experiment.size}`.",
    )


def join_record(experiment: Experiment, run_id: str) -> Tracker:
    """A run that is there already, such as the pipeline's; who began it ends it."""
    if experiment.tracking.kind == "none":
        return NullTracker()
    from raydiance.tracking.mlflow import open_tracker

    return open_tracker(experiment.tracking.url, experiment.name, run_id=run_id)


def connect_to(experiment: Experiment, tracker: Tracker) -> Callable[[], Tracker]:
    """How a worker on another machine writes into the same run."""
    if tracker.run_id is None:
        return NullTracker
    from raydiance.tracking.mlflow import MlflowTracker, open_tracker

    assert isinstance(tracker, MlflowTracker)
    return partial(open_tracker, tracker.url, experiment.name, run_id=tracker.run_id)


def tell_how_to_repeat(experiment: Experiment, inputs: Mapping[str, Artifact], tracker: Tracker) -> None:
    """The resolved settings as a file of the run, and the keys of its inputs as tags."""
    tracker.log_text(PARAMS_FILE, params_text(experiment, []))
    tracker.set_tags({f"{INPUT}{stage}": artifact.ref.key for stage, artifact in inputs.items()})
