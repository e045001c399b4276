"""What earlier runs took and were made from, read back from the record."""

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from raydiance.tracking.left import is_gone
from raydiance.tracking.mlflow_client import connect, errors, run_page

__all__ = ["History", "PastRun", "open_history"]

PAGE = 500


@dataclass(frozen=True)
class PastRun:
    """One run of a stage. Cost is 0 where it was not recorded. One whose process is gone from this machine is
    KILLED, though the record may not know it yet.
    """

    run_id: str
    name: str
    experiment: str
    experiment_id: str
    status: str
    started: datetime
    duration_s: float
    cpu_seconds: float
    gpu_seconds: float
    metrics: Mapping[str, float]
    params: Mapping[str, str]
    tags: Mapping[str, str]


def open_history(url: str | None = None) -> "History":
    """The record on the server or database at `url`; None as in `open_tracker`. Raises TrackingError."""
    return History(*connect(url))


class History:
    """Finds runs of stages; made by `open_history`."""

    def __init__(self, client: Any, url: str) -> None:
        self._client, self.url = client, url

    def runs(
        self,
        experiment: str | None = None,
        *,
        stage: str | None = None,
        size: str | None = None,
        status: str | None = None,
        limit: int | None = None,
    ) -> list[PastRun]:
        """Runs of stages that fit, the newest first; at most `limit`."""
        with errors(self.url, "look for runs"):
            return list(self._search(experiment, _query(stage, size, status), limit))

    def run(self, run_id: str) -> PastRun:
        """The run with this id. Raises TrackingError if there is none."""
        with errors(self.url, f"find run {run_id}"):
            found = self._client.get_run(run_id)
            return _past(found, self._client.get_experiment(found.info.experiment_id).name)

    def maker(self, key: str) -> PastRun | None:
        """The newest run that made the artifact of this key; None if the record knows of none."""
        with errors(self.url, f"look for the run of {key}"):
            return next(self._search(None, f"tags.artifact = '{key}'", 1), None)

    def read_text(self, run_id: str, name: str) -> str:
        """A text file of a run. Raises TrackingError if there is none."""
        with errors(self.url, f"read {name} of run {run_id}"), tempfile.TemporaryDirectory() as folder:
            return Path(self._client.download_artifacts(run_id, name, folder)).read_text(encoding="utf-8")

    def page(self, run: PastRun) -> str | None:
        """Where a browser shows the run; None without a server."""
        if not self.url.startswith("http"):
            return None
        return run_page(self.url, run.experiment_id, run.run_id)

    def _search(self, experiment: str | None, query: str, limit: int | None) -> Iterator[PastRun]:
        names = {
            each.experiment_id: each.name
            for each in self._client.search_experiments()
            if experiment in (None, each.name)
        }
        token, left = None, limit
        while names:
            size = min(PAGE, left or PAGE)
            page = self._client.search_runs(
                list(names),
                query,
                max_results=size,
                order_by=["attributes.start_time DESC"],
                page_token=token,
            )
            for run in page:
                yield _past(run, names[run.info.experiment_id])
            left, token = left and left - len(page), page.token
            if not token or left == 0:
                return


def _query(stage: str | None, size: str | None, status: str | None) -> str:
    conditions = [f"tags.stage = '{stage}'" if stage else "tags.stage LIKE '%'"]
    conditions += [f"tags.size = '{size}'"] if size else []
    conditions += [f"attributes.status = '{status}'"] if status else []
    return " and ".join(conditions)


def _past(run: Any, experiment: str) -> PastRun:
    info, data = run.info, run.data
    ended = info.end_time or datetime.now(UTC).timestamp() * 1000
    return PastRun(
        run_id=info.run_id,
        name=info.run_name,
        experiment=experiment,
        experiment_id=info.experiment_id,
        status="KILLED" if info.status == "RUNNING" and is_gone(data.tags) else info.status,
        started=datetime.fromtimestamp(info.start_time / 1000, UTC),
        duration_s=data.metrics.get("duration_s", (ended - info.start_time) / 1000),
        cpu_seconds=data.metrics.get("cpu_seconds", 0.0),
        gpu_seconds=data.metrics.get("gpu_seconds", 0.0),
        metrics=dict(data.metrics),
        params=dict(data.params),
        tags=dict(data.tags),
    )
