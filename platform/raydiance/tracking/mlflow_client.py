"""A client of MLflow: where it is, what it is told not to do, and what its errors are called here. The only module
that imports MLflow; the others take from it what they need.

With a server's URL everything goes through it; with a database URL (the embedded default is
sqlite:///outputs/mlflow.db) runs go straight into the database and files into `mlartifacts` beside it.
"""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# before the import: nothing is sent to anybody, and neither runs nor files leave lines on standard output
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
# a server that is away is asked for about a minute, not for four
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "5")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")

from mlflow import MlflowClient, entities
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

from raydiance.errors import TrackingError
from raydiance.tracking.address import reach

__all__ = [
    "NOTE",
    "MlflowClient",
    "MlflowException",
    "connect",
    "entities",
    "errors",
    "experiment_id_of",
    "run_page",
]

KIND = {"mlflow.experimentKind": "custom_model_development"}  # which of its two faces the UI shows
FACE = "?workflowType=machine_learning"  # the same, for who comes by a link
NOTE = "mlflow.note.content"


def connect(url: str | None) -> tuple[MlflowClient, str]:
    """A client of the server or database at `url` (as in `open_tracker`), and the whole of its address."""
    url = reach(url)
    for noisy in ("alembic", "mlflow.store"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    with errors(url, "open it"):
        return MlflowClient(url, url), url


def experiment_id_of(client: MlflowClient, url: str, name: str) -> str:
    """The id of the experiment of this name, made if need be. Raises TrackingError if it was deleted."""
    found = client.get_experiment_by_name(name)
    if found is None:
        note = f"Runs of `{name}`: one for each pipeline, below it its stages, below a search its trials."
        try:
            return str(client.create_experiment(name, _artifact_place(url, name), tags={NOTE: note} | KIND))
        except MlflowException as error:
            found = client.get_experiment_by_name(name)
            if error.error_code != "RESOURCE_ALREADY_EXISTS" or found is None:
                raise
    if found.lifecycle_stage != "active":
        raise TrackingError(
            f"experiment {name!r} was deleted on {url}; restore it there, or choose another name"
        )
    return str(found.experiment_id)


def run_page(url: str, experiment_id: str, run_id: str) -> str:
    """Where a browser shows a run of a server."""
    return f"{url}/#/experiments/{experiment_id}/runs/{run_id}{FACE}"


@contextmanager
def errors(url: str, doing: str) -> Iterator[None]:
    """What MLflow raises while the block runs, as a TrackingError that says what was being done."""
    try:
        yield
    except (MlflowException, SQLAlchemyError, OSError) as error:
        cause = " ".join(str(error).split())[:400]
        raise TrackingError(
            f"tracking {url}: could not {doing} ({cause}); check RAYDIANCE_TRACKING and that the server runs"
        ) from error


def _artifact_place(url: str, experiment: str) -> str | None:
    """A server knows its own place for files; beside a database they need one."""
    if url.startswith("http"):
        return None
    folder = (
        Path(url.removeprefix("sqlite:///")).parent
        if url.startswith("sqlite:")
        else Path("outputs").absolute()
    )
    return (folder / "mlartifacts" / experiment).as_uri()
