"""Submitting a job to a cluster through Ray Jobs, following it to its end, and fetching what it leaves."""

import logging
import os
import shlex
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TextIO
from urllib.parse import urlsplit

from raydiance.cluster.package import PARAMS, package
from raydiance.cluster.pointers import folder_of, read_record, resolve_input
from raydiance.cluster.runs import Command, inputs_given, parent_of, read_settings
from raydiance.cluster.session import probe, settings
from raydiance.config import Experiment, params_text, project_folder
from raydiance.config.stages import inputs_of
from raydiance.errors import ClusterError
from raydiance.spec import digest
from raydiance.storage import Store, code_version
from raydiance.tracking.address import reach

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

__all__ = ["OnInterrupt", "Submission", "follow", "jobs_client", "prepare", "submit"]

OnInterrupt = Literal["ask", "stop", "leave"]
POLL_S = 1.0
READY_WAIT_S = 60.0
STOP_WAIT_S = 60  # for the last checkpoint, when a job is asked to stop
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


def submit(
    command: Command,
    address: str,
    *,
    wait: bool = True,
    on_interrupt: OnInterrupt = "ask",
    stream: TextIO = sys.stderr,
) -> int:
    """Submit a job, or attach to the same one, and follow it: its own exit status.

    After success pointer, metrics and tables lie here as if it had run here. Raises ClusterError if the
    address cannot be reached (within 10 s) or refuses.
    """
    client = jobs_client(address)
    experiment = read_settings(command)
    store = Store.open(experiment.store.url)
    with tempfile.TemporaryDirectory() as folder:
        submission = prepare(command, experiment, store, Path(folder))
        job_id = _begin(client, submission, address, stream)
    if not wait:
        print(f"{job_id} is under way; run the same command again to attach to it", file=stream)
        return 0
    status = follow(client, job_id, on_interrupt=on_interrupt, stream=stream)
    if status == 0 and not read_record(store, submission.name, folder_of(experiment.name)):
        raise ClusterError(
            f"{job_id} ended well, but {store.url} holds no record of it; the job and this machine must "
            "use the same store (RAYDIANCE_STORE)"
        )
    return status


def prepare(command: Command, experiment: Experiment, store: Store, folder: Path) -> Submission:
    """Resolve the inputs here, where the pointers are, and pack code and settings."""
    given, pointers = inputs_given(command, experiment), folder_of(experiment.name)
    inputs = {
        name: resolve_input(name, store, given, pointers).ref for name in inputs_of(experiment, command.stage)
    }
    parent = command.parent or parent_of(experiment, command.stage)
    archive = package(project_folder(), params_text(experiment, command.overrides), folder)
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
    return Submission(
        name=name,
        stage=command.stage,
        archive=archive,
        arguments=tuple(arguments),
        environment=_environment(experiment, store),
        metadata={"stage": command.stage, "experiment": experiment.name, "code_version": code_version()},
    )


def jobs_client(address: str) -> "JobSubmissionClient":
    """A client of Ray Jobs at http(s)://host:port. Raises ClusterError in one line within 10 s."""
    probe(address, 8265)
    settings()
    from ray.job_submission import JobSubmissionClient

    logging.getLogger("ray.dashboard.modules.dashboard_sdk").setLevel(logging.WARNING)
    try:
        return JobSubmissionClient(address)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ClusterError(f"Ray Jobs at {address}: {_first_line(error)}") from error


def follow(
    client: "JobSubmissionClient",
    job_id: str,
    *,
    on_interrupt: OnInterrupt = "ask",
    stream: TextIO = sys.stderr,
) -> int:
    """Print the job's log as it grows until the job has ended: its exit status.

    The log is asked for again and again, not followed through a socket: Ray may end that before the job ends.
    """
    shown = 0
    while True:
        try:
            info = client.get_job_info(job_id)
            shown = _show_log(client, job_id, shown, stream)
            if info.status.is_terminal():
                _show_log(client, job_id, shown, stream)
                return _exit_status(job_id, info, stream)
            time.sleep(POLL_S)
        except KeyboardInterrupt:
            if _shall_stop(job_id, on_interrupt, stream):
                client.stop_job(job_id)
                on_interrupt = "leave"
            else:
                print(f"\n{job_id} goes on; run the same command again to attach to it", file=stream)
                return 130


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
                    "env_vars": dict(submission.environment),
                },
                metadata=dict(submission.metadata),
            )
            return
        except (RuntimeError, ValueError) as error:
            if "No available agent" not in str(error) or time.monotonic() > deadline:
                raise ClusterError(f"{job_id}: {address} refuses the job: {_first_line(error)}") from error
            time.sleep(POLL_S)


def _python(address: str) -> str:
    """The interpreter there: RAYDIANCE_PYTHON, or this one where the cluster is this machine, or `python`."""
    here = urlsplit(address).hostname in ("127.0.0.1", "localhost", "::1")
    return os.environ.get("RAYDIANCE_PYTHON") or (sys.executable if here else "python")


def _environment(experiment: Experiment, store: Store) -> dict[str, str]:
    """What the job must know: which store, which record of runs, and that the cluster is its own."""
    return {
        "PYTHONPATH": "${RAY_RUNTIME_ENV_CREATE_WORKING_DIR}/platform",
        "RAYDIANCE_ADDRESS": "auto",
        "RAYDIANCE_STORE": store.url,
        "RAYDIANCE_TRACKING": reach(experiment.tracking.url),
        "RAY_JOB_STOP_WAIT_TIME_S": str(STOP_WAIT_S),
        **{name: os.environ[name] for name in PASSED_ON if name in os.environ},
    }


def _show_log(client: "JobSubmissionClient", job_id: str, shown: int, stream: TextIO) -> int:
    """Print what is new in the log; how much of it has been shown now."""
    try:
        log = client.get_job_logs(job_id)
    except RuntimeError:  # not there yet, or the node is gone: the status tells
        return shown
    stream.write(log[shown:])
    stream.flush()
    return max(shown, len(log))


def _exit_status(job_id: str, info: Any, stream: TextIO) -> int:
    if info.status == "SUCCEEDED":
        return 0
    if info.status == "STOPPED":
        print(f"{job_id} was stopped", file=stream)
        return 130
    code = info.driver_exit_code
    if not code:
        print(f"{job_id}: {_first_line(info.message or 'failed without a message')}", file=stream)
    return code or 1


def _shall_stop(job_id: str, on_interrupt: OnInterrupt, stream: TextIO) -> bool:
    if on_interrupt != "ask":
        return on_interrupt == "stop"
    if not sys.stdin.isatty():
        return False
    try:
        return input(f"\nStop {job_id}? [y/N] ").strip().lower().startswith("y")
    except (KeyboardInterrupt, EOFError):
        return False


def _first_line(error: object) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
