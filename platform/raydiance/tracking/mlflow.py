"""MLflow as a Tracker."""

import getpass
import json
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
from PIL import Image

from raydiance.errors import TrackingError
from raydiance.spec import to_plain
from raydiance.storage import Artifact, code_version
from raydiance.tracking.buffer import Buffer
from raydiance.tracking.left import PARENT, PIPELINE, close_left, open_children, process_tags
from raydiance.tracking.mlflow_client import (
    NOTE,
    MlflowClient,
    MlflowException,
    connect,
    entities,
    errors,
    experiment_id_of,
    run_page,
)
from raydiance.tracking.mlflow_registry import MlflowRegistry
from raydiance.tracking.provenance import dvc_tags, job_tags
from raydiance.tracking.tracker import Status, check_film, check_image, flatten, status_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["MlflowTracker", "open_tracker"]

TABLES = "mlflow.loggedArtifacts"

T = TypeVar("T")
FRAME_MS = 80

# what is written behind the caller's back: a metric, or (key, image or film, step)
Entry = entities.Metric | tuple[str, NDArray[np.uint8], int]


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
    for the pipeline and ends as its latest stage ended. With nested=False the run stands alone. Runs of the same
    name that were left open by a process that was killed are ended (tracking.left).
    Raises TrackingError within 10 s, in one line with the address, if the server cannot be reached.
    """
    client, url = connect(url)
    if run_id is not None:
        with errors(url, f"join run {run_id}"):
            run = client.get_run(run_id)
        return MlflowTracker(client, url, run_id, run.data.tags.get(PARENT), owner=False)
    with errors(url, f"begin a run in experiment {experiment!r}"):
        experiment_id = experiment_id_of(client, url, experiment)
        pipeline = _pipeline(client, experiment_id, experiment, parent_id) if nested else None
        parent = pipeline or (parent_id if nested else None)
        all_tags = {**dvc_tags(Path.cwd(), experiment), **(tags or {})}
        run_id = _begin(client, experiment_id, run_name, parent, all_tags, description)
        if run_name:
            close_left(client, experiment_id, run_name, run_id, parent)
    return MlflowTracker(client, url, run_id, parent, pipeline=pipeline)


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
        self._tables: list[dict[str, str]] = []
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
        return run_page(self.url, experiment_id, self.run_id)

    @property
    def registry(self) -> "MlflowRegistry":
        """The registry of the same server; versions registered through it name this run."""
        return MlflowRegistry(self._client, self.url, self.run_id)

    def describe(self, text: str) -> None:
        self.set_tags({NOTE: text})

    def log_params(self, params: Mapping[str, object]) -> None:
        entries = [entities.Param(name, _text(value)) for name, value in flatten(params).items()]
        with errors(self.url, "write parameters"):
            for chunk in _chunks(entries, 100):
                self._client.log_batch(self.run_id, params=chunk)

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        now = int(time.time() * 1000)
        for name, value in metrics.items():
            self._buffer.put(entities.Metric(name, float(value), now, step or 0))

    def log_image(self, key: str, image: NDArray[np.uint8], step: int | None = None) -> None:
        self._buffer.put((key, check_image(key, image).copy(), step or 0))

    def log_film(self, key: str, frames: NDArray[np.uint8], step: int | None = None) -> None:
        self._buffer.put((key, check_film(key, frames).copy(), step or 0))

    def log_figure(self, name: str, figure: "Figure") -> None:
        with errors(self.url, f"write {name}"):
            self._client.log_figure(self.run_id, figure, name)

    def log_text(self, name: str, text: str) -> None:
        with errors(self.url, f"write {name}"):
            self._client.log_text(self.run_id, text, name)

    def log_table(self, name: str, rows: Sequence[Mapping[str, object]]) -> None:
        columns = dict.fromkeys(column for row in rows for column in row)
        table = {"columns": list(columns), "data": [[row.get(each) for each in columns] for row in rows]}
        self.log_text(name, json.dumps(table))
        self._tables.append({"path": name, "type": "table"})
        self.set_tags({TABLES: json.dumps(self._tables)})  # what makes a file a table in its pages

    def log_file(self, path: Path, folder: str = "") -> None:
        with errors(self.url, f"write {path.name}"):
            self._client.log_artifact(self.run_id, str(path), folder or None)

    def log_input(self, artifact: Artifact, context: str) -> None:
        size = sum(entry.size for entry in artifact.manifest.files)
        data = entities.Dataset(
            name=artifact.ref.key,
            digest=artifact.ref.sha256[:36],  # no more fits into MLflow's column; the whole is in the profile
            source_type="s3" if artifact.uri.startswith("s3://") else "local",
            source=json.dumps({"uri": artifact.uri}),
            profile=json.dumps({"sha256": artifact.ref.sha256, "files": len(artifact.files), "bytes": size}),
        )
        with errors(self.url, f"write the input {artifact.ref.key}"):
            self._client.log_inputs(
                self.run_id,
                [entities.DatasetInput(data, [entities.InputTag("mlflow.data.context", context)])],
            )

    def set_tags(self, tags: Mapping[str, str]) -> None:
        with errors(self.url, "write tags"):
            for chunk in _chunks([entities.RunTag(name, value) for name, value in tags.items()], 100):
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
            for run in open_children(self._client, self.run_id):
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
            for chunk in _chunks([entry for entry in entries if isinstance(entry, entities.Metric)], 1000):
                self._client.log_batch(self.run_id, metrics=chunk)
            for entry in entries:
                if not isinstance(entry, entities.Metric):
                    key, image, step = entry
                    if image.ndim == 4:
                        self._write_film(f"{key}_{step:08d}.gif", image)
                    else:
                        self._client.log_image(self.run_id, image, key=key, step=step, synchronous=True)

    def _write_film(self, name: str, frames: NDArray[np.uint8]) -> None:
        """A GIF, because it is what MLflow's page plays."""
        pictures = [Image.fromarray(frame) for frame in frames]
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / name
            pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=FRAME_MS, loop=0)
            self._client.log_artifact(self.run_id, str(path), "films")


def _join(url: str, run_id: str) -> MlflowTracker:
    return open_tracker(url, "", run_id=run_id)


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
        **job_tags(),
        **process_tags(),
        **({PARENT: parent_id} if parent_id else {}),
        **({NOTE: description} if description else {}),
        **tags,
    }
    run = client.create_run(experiment_id, tags=all_tags, run_name=name)
    return str(run.info.run_id)


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(to_plain(value))


def _chunks(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
