"""MLflow as a Tracker and as a Registry. The only module that imports MLflow.

With a server's URL everything goes through it; with a database URL (the embedded default is
sqlite:///outputs/mlflow.db) runs go straight into the database and files into `mlartifacts` beside it.
"""

import getpass
import json
import logging
import os
import shlex
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

# before the import: nothing is sent to anybody, and runs do not end with lines on standard output
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
# a server that is away is asked for about a minute, not for four
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "5")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")

from mlflow import MlflowClient
from mlflow.entities import (
    Dataset,
    DatasetInput,
    InputTag,
    LoggedModel,
    LoggedModelStatus,
    Metric,
    Param,
    Run,
    RunTag,
    ViewType,
)
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

from raydiance.errors import TrackingError
from raydiance.spec import to_plain
from raydiance.storage import Artifact, ArtifactRef, code_version, write_json
from raydiance.tracking.address import reach
from raydiance.tracking.buffer import Buffer
from raydiance.tracking.provenance import dvc_tags, job_tags
from raydiance.tracking.registry import ModelVersion
from raydiance.tracking.tracker import Status, check_image, flatten, status_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["MlflowRegistry", "MlflowTracker", "connect", "errors", "open_registry", "open_tracker"]

PIPELINE = "raydiance.pipeline"
KIND = {"mlflow.experimentKind": "custom_model_development"}  # which of its two faces the UI shows
PARENT = "mlflow.parentRunId"
NOTE = "mlflow.note.content"

T = TypeVar("T")
# what is written behind the caller's back: a metric, or (key, image, step)
Entry = Metric | tuple[str, NDArray[np.uint8], int]


def open_tracker(
    url: str | None,
    experiment: str,
    run_name: str | None = None,
    *,
    parent_id: str | None = None,
    run_id: str | None = None,
    nested: bool = True,
    tags: Mapping[str, str] | None = None,
    description: str = "",
) -> "MlflowTracker":
    """A run on the server or database at `url`; None means RAYDIANCE_TRACKING, MLFLOW_TRACKING_URI or SQLite.

    With `run_id` it joins that run and leaves its end to whoever began it (a worker of a job). Otherwise it
    begins a run below `parent_id`; where that is None or unknown to the server, below a new run that stands
    for the pipeline and ends as its latest stage ended. With nested=False the run stands alone.
    Raises TrackingError within 10 s, in one line with the address, if the server cannot be reached.
    """
    client, url = connect(url)
    if run_id is not None:
        with errors(url, f"join run {run_id}"):
            run = client.get_run(run_id)
        return MlflowTracker(client, url, run_id, run.data.tags.get(PARENT), owner=False)
    with errors(url, f"begin a run in experiment {experiment!r}"):
        experiment_id = _experiment_id(client, url, experiment)
        pipeline = _pipeline(client, experiment_id, experiment, parent_id) if nested else None
        parent = pipeline or (parent_id if nested else None)
        run_id = _begin(client, experiment_id, run_name, parent, tags or {}, description)
    return MlflowTracker(client, url, run_id, parent, pipeline=pipeline)


def open_registry(url: str | None = None) -> "MlflowRegistry":
    """The model registry of the server or database at `url` (as in `open_tracker`)."""
    return MlflowRegistry(*connect(url))


class MlflowTracker:
    """One MLflow run; made by `open_tracker`. Sent to another process, it joins the run there."""

    def __init__(
        self,
        client: MlflowClient,
        url: str,
        run_id: str,
        parent_id: str | None,
        *,
        pipeline: str | None = None,
        owner: bool = True,
    ) -> None:
        self.url = url
        self.run_id: str = run_id
        self.parent_id = parent_id
        self._client = client
        self._pipeline = pipeline
        self._owner = owner
        self._buffer: Buffer[Entry] = Buffer(self._write)

    def __reduce__(self) -> tuple[Any, ...]:
        return _join, (self.url, self.run_id)

    @property
    def page(self) -> str | None:
        """Where a browser shows the run; None without a server."""
        if not self.url.startswith("http"):
            return None
        with errors(self.url, "find the run"):
            experiment_id = self._client.get_run(self.run_id).info.experiment_id
        return f"{self.url}/#/experiments/{experiment_id}/runs/{self.run_id}"

    @property
    def registry(self) -> "MlflowRegistry":
        """The registry of the same server; versions registered through it name this run."""
        return MlflowRegistry(self._client, self.url, self.run_id)

    def describe(self, text: str) -> None:
        self.set_tags({NOTE: text})

    def log_params(self, params: Mapping[str, object]) -> None:
        entries = [Param(name, _text(value)) for name, value in flatten(params).items()]
        with errors(self.url, "write parameters"):
            for chunk in _chunks(entries, 100):
                self._client.log_batch(self.run_id, params=chunk)

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        now = int(time.time() * 1000)
        for name, value in metrics.items():
            self._buffer.put(Metric(name, float(value), now, step or 0))

    def log_image(self, key: str, image: NDArray[np.uint8], step: int | None = None) -> None:
        self._buffer.put((key, check_image(key, image).copy(), step or 0))

    def log_figure(self, name: str, figure: "Figure") -> None:
        with errors(self.url, f"write {name}"):
            self._client.log_figure(self.run_id, figure, name)

    def log_text(self, name: str, text: str) -> None:
        with errors(self.url, f"write {name}"):
            self._client.log_text(self.run_id, text, name)

    def log_file(self, path: Path, folder: str = "") -> None:
        with errors(self.url, f"write {path.name}"):
            self._client.log_artifact(self.run_id, str(path), folder or None)

    def log_input(self, artifact: Artifact, context: str) -> None:
        size = sum(entry.size for entry in artifact.manifest.files)
        data = Dataset(
            name=artifact.ref.key,
            digest=artifact.ref.sha256[:36],  # no more fits into MLflow's column; the whole is in the profile
            source_type="s3" if artifact.uri.startswith("s3://") else "local",
            source=json.dumps({"uri": artifact.uri}),
            profile=json.dumps({"sha256": artifact.ref.sha256, "files": len(artifact.files), "bytes": size}),
        )
        with errors(self.url, f"write the input {artifact.ref.key}"):
            self._client.log_inputs(
                self.run_id, [DatasetInput(data, [InputTag("mlflow.data.context", context)])]
            )

    def set_tags(self, tags: Mapping[str, str]) -> None:
        with errors(self.url, "write tags"):
            for chunk in _chunks([RunTag(name, value) for name, value in tags.items()], 100):
                self._client.log_batch(self.run_id, tags=chunk)

    @contextmanager
    def child(self, name: str, tags: Mapping[str, str] | None = None) -> Iterator["MlflowTracker"]:
        with errors(self.url, f"begin the run {name!r}"):
            experiment_id = self._client.get_run(self.run_id).info.experiment_id
            run_id = _begin(self._client, experiment_id, name, self.run_id, tags or {}, "")
        with MlflowTracker(self._client, self.url, run_id, self.run_id) as child:
            yield child

    def close(self, status: Status = "FINISHED") -> None:
        """Write what is buffered and end the run; nested runs that were left open end as KILLED."""
        self._buffer.close()
        if not self._owner:
            return
        with errors(self.url, f"end run {self.run_id}"):
            for run in _open_children(self._client, self.run_id):
                self._client.set_terminated(run.info.run_id, "KILLED")
            self._client.set_terminated(self.run_id, status)
            if self._pipeline:
                self._client.set_terminated(self._pipeline, status)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.close(status_of(error))
        except TrackingError as lost:
            if error is None:
                raise
            error.add_note(str(lost))

    def _write(self, entries: Sequence[Entry]) -> None:
        with errors(self.url, "write metrics and images"):
            for chunk in _chunks([entry for entry in entries if isinstance(entry, Metric)], 1000):
                self._client.log_batch(self.run_id, metrics=chunk)
            for entry in entries:
                if not isinstance(entry, Metric):
                    key, image, step = entry
                    self._client.log_image(self.run_id, image, key=key, step=step, synchronous=True)


class MlflowRegistry:
    """MLflow's model registry; a version holds a reference to the bundle in the store, never its weights."""

    def __init__(self, client: MlflowClient, url: str, run_id: str | None = None) -> None:
        self.url = url
        self._client = client
        self._run_id = run_id

    def register_bundle(
        self, name: str, artifact: Artifact, *, description: str = "", tags: Mapping[str, str] | None = None
    ) -> str:
        """See `Registry.register_bundle`."""
        tags = {
            "raydiance.store": artifact.store.url,
            "raydiance.kind": artifact.ref.kind,
            "raydiance.key": artifact.ref.key,
            "raydiance.sha256": artifact.ref.sha256,
            **(tags or {}),
        }
        with errors(self.url, f"register {name!r}"):
            model = self._logged_model(name, artifact, description, tags)
            try:
                self._client.create_registered_model(name, description=description)
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
            version = self._client.create_model_version(
                name,
                # not "models:/<id>", which MLflow looks up in its process-wide database, not in this
                str(model.artifact_location),
                run_id=self._run_id,
                tags=tags | {"raydiance.logged_model": str(model.model_id)},
                description=description,
                model_id=model.model_id if self.url.startswith("http") else None,
            )
        return str(version.version)

    def set_alias(self, name: str, alias: str, version: str) -> None:
        """See `Registry.set_alias`."""
        with errors(self.url, f"give the alias {alias!r} to version {version} of {name!r}"):
            self._client.set_registered_model_alias(name, alias, version)

    def annotate(self, name: str, version: str, tags: Mapping[str, str]) -> None:
        """See `Registry.annotate`."""
        with errors(self.url, f"annotate version {version} of {name!r}"):
            for tag, value in tags.items():
                self._client.set_model_version_tag(name, version, tag, value)

    def resolve(self, name: str, alias: str) -> ModelVersion:
        """See `Registry.resolve`."""
        with errors(self.url, f"find the version {alias!r} of {name!r}"):
            if alias.isdecimal():
                found = self._client.get_model_version(name, alias)
            else:
                found = self._client.get_model_version_by_alias(name, alias)
        try:
            kind, key, sha256, store = (
                found.tags[f"raydiance.{tag}"] for tag in ("kind", "key", "sha256", "store")
            )
        except KeyError as error:
            raise TrackingError(
                f"model {name!r} version {found.version}: it has no tag {error}; Raydiance did not publish it"
            ) from error
        return ModelVersion(
            name, str(found.version), ArtifactRef(kind=kind, key=key, sha256=sha256), store, dict(found.tags)
        )

    def _logged_model(
        self, name: str, artifact: Artifact, description: str, tags: Mapping[str, str]
    ) -> LoggedModel:
        if self._run_id:
            experiment_id = self._client.get_run(self._run_id).info.experiment_id
        else:
            experiment_id = _experiment_id(self._client, self.url, "bundles")
        model = self._client.create_logged_model(
            experiment_id, name, source_run_id=self._run_id, tags=dict(tags), model_type="raydiance.bundle"
        )
        with tempfile.TemporaryDirectory() as folder:
            write_json(Path(folder, "bundle.json"), {"store": artifact.store.url, "ref": artifact.ref})
            Path(folder, "README.md").write_text(description or f"Bundle {artifact.uri}", encoding="utf-8")
            self._client.log_model_artifacts(model.model_id, folder)
        self._client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)
        return model


def _join(url: str, run_id: str) -> MlflowTracker:
    return open_tracker(url, "", run_id=run_id)


def connect(url: str | None) -> tuple[MlflowClient, str]:
    """A client of the server or database at `url` (as in `open_tracker`), and the whole of its address."""
    url = reach(url)
    for noisy in ("alembic", "mlflow.store"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    with errors(url, "open it"):
        return MlflowClient(url, url), url


def _experiment_id(client: MlflowClient, url: str, name: str) -> str:
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


def _pipeline(client: MlflowClient, experiment_id: str, experiment: str, run_id: str | None) -> str | None:
    """The id of the pipeline's run, begun if need be; None if `run_id` is a run of another kind."""
    if run_id is not None:
        try:
            tags = client.get_run(run_id).data.tags
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
        else:
            if PIPELINE not in tags:
                return None
            client.update_run(run_id, status="RUNNING")
            return run_id
    note = f"One walk of `{experiment}` from meshes to a bundle; the stages are the runs below this one."
    return _begin(client, experiment_id, f"{experiment} pipeline", None, {PIPELINE: experiment}, note)


def _begin(
    client: MlflowClient,
    experiment_id: str,
    name: str | None,
    parent_id: str | None,
    tags: Mapping[str, str],
    description: str,
) -> str:
    version = code_version()
    all_tags = {
        "mlflow.user": getpass.getuser(),
        "mlflow.source.name": Path(sys.argv[0]).name,
        "raydiance.command": shlex.join(sys.argv)[:5000],
        "mlflow.source.type": "LOCAL",
        "raydiance.code_version": version,
        **(
            {"mlflow.source.git.commit": version.partition("+g")[2].removesuffix(".dirty")}
            if "+g" in version
            else {}
        ),
        **dvc_tags(Path.cwd()),
        **job_tags(),
        **({PARENT: parent_id} if parent_id else {}),
        **({NOTE: description} if description else {}),
        **tags,
    }
    run = client.create_run(experiment_id, tags=all_tags, run_name=name)
    return str(run.info.run_id)


def _open_children(client: MlflowClient, run_id: str) -> list[Run]:
    experiment_id = client.get_run(run_id).info.experiment_id
    query = f"tags.`{PARENT}` = '{run_id}' and attributes.status = 'RUNNING'"
    found = client.search_runs([experiment_id], query, ViewType.ACTIVE_ONLY, max_results=1000)
    return [run for child in found for run in [*_open_children(client, child.info.run_id), child]]


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


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(to_plain(value))


def _chunks(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
