"""Submitting a job to a cluster through Ray Jobs, following it to its end, and fetching what it leaves."""

import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TextIO
from urllib.parse import urlsplit

from raydiance.cluster.following import Ending, OnInterrupt, first_line, follow, jobs_client
from raydiance.cluster.package import PARAMS, package
from raydiance.cluster.pointers import folder_of, read_record
from raydiance.cluster.room import nodes_at, refuse_impossible
from raydiance.cluster.runs import Command, gather, parent_of, read_settings, taken_over
from raydiance.config import Experiment, RetrySpec, params_text, project_folder
from raydiance.errors import ClusterError
from raydiance.spec import digest
from raydiance.storage import Store, code_version
from raydiance.tracking.address import reach
from raydiance.tracking.provenance import DVC_VARIABLE, JOB_VARIABLE, dvc_tags

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

__all__ = ["Submission", "fetch_results", "pause_before_retry", "prepare", "submit"]

POLL_S = 1.0
READY_WAIT_S = 60.0
STOP_WAIT_S = 60  # for the last checkpoint, when a job is asked to stop
MAX_PAUSE_S = 300.0
# Where things are is passed on; who we are (keys, tokens) is not: the cluster's own environment says that.
PASSED_ON = ("AWS_ENDPOINT_URL", "AWS_DEFAULT_REGION", "AWS_REGION")


@dataclass(frozen=True)
class Submission:
    """All that makes a submitted job; the same work has the same name."""

    name: str
    stage: str
    archive: Path
    arguments: tuple[str, ...]
    environment: Mapping[str, str]
    metadata: Mapping[str, str]
    gpus: int = 0  # for the job's own process


def submit(
    command: Command,
    address: str,
    *,
    wait: bool = True,
    on_interrupt: OnInterrupt = "ask",
    stream: TextIO = sys.stderr,
) -> int:
    """Submit a job, or attach to the same one, and follow it: its own exit status.

    A job that fails for a reason that passes is run again, as cluster.retry says. After success pointer,
    metrics and tables lie here as if it had run here. Raises ClusterError if the address cannot be reached
    (within 10 s) or refuses.
    """
    experiment = read_settings(command)
    store = Store.open(experiment.store.url, experiment.store.quota)
    if command.reuse and taken_over(command, experiment, gather(command, experiment, store), store):
        return 0
    client = jobs_client(address)
    refuse_impossible(experiment.cluster, nodes_at(address))
    with tempfile.TemporaryDirectory() as folder:
        submission = prepare(command, experiment, store, Path(folder))
        job_id = _begin(client, submission, address, stream)
        if not wait:
            print(f"{job_id} is under way; `raydiance jobs attach {job_id}` follows it", file=stream)
            return 0
        # Started over once is enough: the next attempt goes on from the checkpoints of this one.
        again = replace(submission, arguments=tuple(a for a in submission.arguments if a != "--fresh"))
        failures: list[Ending] = []
        while True:
            ending = follow(client, job_id, on_interrupt=on_interrupt, stream=stream)
            pause_s = pause_before_retry(experiment.cluster.retry, [*failures, ending])
            if pause_s is None:
                break
            failures.append(ending)
            reason = "was lost" if ending.lost else f"ended with exit status {ending.status}"
            print(f"{job_id} {reason}; it is run again in {pause_s:g} s", file=stream)
            time.sleep(pause_s)
            job_id = _begin(client, again, address, stream)
    if ending.status == 0:
        fetch_results(store, submission.name, experiment.name, job_id)
    return ending.status


def pause_before_retry(retry: RetrySpec, endings: list[Ending]) -> float | None:
    """Seconds until the next attempt after these, the last of which has just ended; None: it is final."""
    last = endings[-1]
    same = [ending for ending in endings if ending.lost == last.lost]
    if last.status == 0 or not (last.lost or last.status in retry.exit_codes):
        return None
    if len(same) > (retry.node_losses if last.lost else retry.times):
        return None
    return min(retry.backoff_s * 2.0 ** (len(same) - 1), MAX_PAUSE_S)


def fetch_results(store: Store, record: str, experiment: str, job_id: str) -> None:
    """Pointer, metrics and tables of a job that ended well, into this folder. Raises ClusterError."""
    if not read_record(store, record, folder_of(experiment)):
        raise ClusterError(
            f"{job_id} ended well, but {store.url} holds no record of it; the job and this machine must "
            "use the same store (RAYDIANCE_STORE)"
        )


def prepare(command: Command, experiment: Experiment, store: Store, folder: Path) -> Submission:
    """Resolve the inputs here, where the pointers are, and pack code and settings."""
    inputs = {name: artifact.ref for name, artifact in gather(command, experiment, store).items()}
    parent = command.parent or parent_of(experiment, command.stage)
    project = project_folder()
    archive = package(project, params_text(experiment, command.overrides), folder)
    made_from: dict[str, object] = {
        "package": archive.name,
        "inputs": inputs,
        "store": store.url,
        "parent": parent,
    }
    if command.fresh:
        made_from["time"] = time.time()
    name = f"{experiment.name}-{command.stage}-{digest(made_from)}"
    arguments = ["--params", PARAMS, "--record", name]
    for stage, ref in inputs.items():
        arguments += ["--input", f"{stage}={ref.key}"]
    if parent:
        arguments += ["--parent", parent]
    if command.fresh:
        arguments += ["--fresh"]
    data = dvc_tags(project, experiment.name)
    return Submission(
        name=name,
        stage=command.stage,
        archive=archive,
        arguments=tuple(arguments),
        environment=_environment(experiment, store, data),
        metadata={
            "stage": command.stage,
            "experiment": experiment.name,
            "size": experiment.size,
            "code_version": code_version(),
            "git_commit": _commit(project),
            "store": store.url,
            "record": name,
            "mlflow_parent": parent or "",
            **data,
        },
        gpus=int(experiment.cluster.use_gpu and not experiment.cluster.num_workers),
    )


def _begin(client: "JobSubmissionClient", submission: Submission, address: str, stream: TextIO) -> str:
    """Start the job under its name, or attach to it; after one that failed, under the next name."""
    from ray.job_submission import JobStatus

    known = {job.submission_id: job.status for job in client.list_jobs()}
    attempt, job_id = 1, submission.name
    while known.get(job_id) in (JobStatus.FAILED, JobStatus.STOPPED):
        attempt, job_id = attempt + 1, f"{submission.name}-{attempt + 1}"
    if job_id in known:
        print(f"attached to {job_id} at {address}", file=stream)
        return job_id
    _submit(client, submission, job_id, address)
    print(f"submitted {job_id} to {address}", file=stream)
    return job_id


def _submit(client: "JobSubmissionClient", submission: Submission, job_id: str, address: str) -> None:
    """Hand the job over; a cluster that has only just started is given time to get ready."""
    deadline = time.monotonic() + READY_WAIT_S
    while True:
        try:
            client.submit_job(
                entrypoint=shlex.join(
                    [_python(address), f"jobs/{submission.stage}.py", *submission.arguments]
                ),
                submission_id=job_id,
                runtime_env={
                    "working_dir": str(submission.archive),
                    "env_vars": {**submission.environment, JOB_VARIABLE: job_id},
                },
                metadata=dict(submission.metadata),
                entrypoint_num_gpus=submission.gpus or None,
            )
            return
        except (OSError, RuntimeError, ValueError) as error:
            if "No available agent" not in str(error) or time.monotonic() > deadline:
                raise ClusterError(f"{job_id}: {address} refuses the job: {first_line(error)}") from error
            time.sleep(POLL_S)


def _python(address: str) -> str:
    """The interpreter there: RAYDIANCE_PYTHON, or this one where the cluster is this machine, or `python`."""
    here = urlsplit(address).hostname in ("127.0.0.1", "localhost", "::1")
    return os.environ.get("RAYDIANCE_PYTHON") or (sys.executable if here else "python")


def _environment(experiment: Experiment, store: Store, data: Mapping[str, str]) -> dict[str, str]:
    """What the job must know: which store, which record of runs, whose code and data, and that the cluster
    is its own.
    """
    return {
        "PYTHONPATH": "${RAY_RUNTIME_ENV_CREATE_WORKING_DIR}/platform",
        "RAYDIANCE_ADDRESS": "auto",
        "RAYDIANCE_STORE": store.url,
        "RAYDIANCE_TRACKING": reach(experiment.tracking.url),
        "RAYDIANCE_CODE_VERSION": code_version(),
        DVC_VARIABLE: json.dumps(data),
        "RAY_JOB_STOP_WAIT_TIME_S": str(STOP_WAIT_S),
        **{name: os.environ[name] for name in PASSED_ON if name in os.environ},
    }


def _commit(project: Path) -> str:
    """The commit that the code was packed from; empty where there is no Git."""
    done = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=project, capture_output=True, text=True, check=False
    )
    return done.stdout.strip()
