"""The jobs that a cluster knows: found by the beginning of their id, shown, stopped, attached to."""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TextIO

from raydiance.cluster.following import OnInterrupt, follow
from raydiance.cluster.jobs import STOP_WAIT_S, fetch_results
from raydiance.errors import ClusterError, ConfigError
from raydiance.storage import Store

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

__all__ = ["KnownJob", "attach", "find_job", "known_jobs", "stop_job"]

POLL_S = 0.5


@dataclass(frozen=True)
class KnownJob:
    """A job as Ray Jobs tells of it; times in UTC."""

    id: str
    status: str
    started: datetime | None
    seconds: float | None
    exit_code: int | None
    message: str
    metadata: dict[str, str]


def known_jobs(client: "JobSubmissionClient") -> list[KnownJob]:
    """All submitted jobs; the newest is first."""
    jobs = [_job(info) for info in client.list_jobs() if info.submission_id]
    return sorted(jobs, key=lambda job: job.started or datetime.now(UTC), reverse=True)


def find_job(jobs: Sequence[KnownJob], wanted: str) -> KnownJob:
    """The job with this id, or the one whose id begins so. Raises ConfigError if there is not just one."""
    found = [job for job in jobs if job.id == wanted] or [job for job in jobs if job.id.startswith(wanted)]
    if len(found) != 1:
        some = ", ".join(job.id for job in (found or jobs)[:5]) or "none at all"
        problem = "more than one job begins so" if found else "the cluster knows no such job"
        raise ConfigError(f"{wanted}: {problem}; there is {some}")
    return found[0]


def stop_job(client: "JobSubmissionClient", job: KnownJob) -> str:
    """Ask a job to stop and wait until it has, at most as long as it may take for a last checkpoint: its
    status. Raises ClusterError if it goes on.
    """
    client.stop_job(job.id)
    deadline = time.monotonic() + STOP_WAIT_S + 15
    while not (status := client.get_job_status(job.id)).is_terminal():
        if time.monotonic() > deadline:
            raise ClusterError(f"{job.id}: still {status.value} after it was asked to stop; ask again")
        time.sleep(POLL_S)
    return str(status.value)


def attach(
    client: "JobSubmissionClient",
    job: KnownJob,
    *,
    on_interrupt: OnInterrupt = "ask",
    stream: TextIO = sys.stderr,
) -> int:
    """Follow a job that was submitted before, and fetch what it leaves: its exit status."""
    ending = follow(client, job.id, on_interrupt=on_interrupt, stream=stream)
    if ending.status == 0 and "record" in job.metadata:
        store = Store.open(job.metadata["store"])
        fetch_results(store, job.metadata["record"], job.metadata["experiment"], job.id)
    return ending.status


def _job(info: Any) -> KnownJob:
    started = datetime.fromtimestamp(info.start_time / 1000, UTC) if info.start_time else None
    end_ms = info.end_time or time.time() * 1000
    return KnownJob(
        id=info.submission_id,
        status=info.status.value,
        started=started,
        seconds=(end_ms - info.start_time) / 1000 if info.start_time else None,
        exit_code=info.driver_exit_code,
        message=(info.message or "").strip(),
        metadata=dict(info.metadata or {}),
    )
