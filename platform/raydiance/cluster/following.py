"""A client of Ray Jobs, and a job's log and fate as they unfold."""

import logging
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TextIO

from raydiance.cluster.session import probe, settings
from raydiance.errors import ClusterError

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

__all__ = ["Ending", "OnInterrupt", "first_line", "follow", "jobs_client", "show_log"]

OnInterrupt = Literal["ask", "stop", "leave"]
POLL_S = 1.0
EAGER_S = 0.2  # until the first line is there
TOLD_TO_END = 143  # by SIGTERM, but not by Ray Jobs, which calls that stopped: its node is taken away
AWAY_S = 120.0  # how long a head that restarts may be gone
TOKEN_REFUSED = (
    "does not take this token, or none was given; set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or "
    "RAY_AUTH_TOKEN_PATH to the cluster's own"
)


@dataclass(frozen=True)
class Ending:
    """How a job ended: its exit status, and whether it or the node it ran on was lost from outside."""

    status: int
    lost: bool = False


def jobs_client(address: str) -> "JobSubmissionClient":
    """A client of Ray Jobs at http(s)://host:port. Raises ClusterError in one line within 10 s."""
    probe(address, 8265)
    settings()
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    logging.getLogger("ray.dashboard.modules.dashboard_sdk").setLevel(logging.WARNING)
    try:
        return JobSubmissionClient(address)
    except AuthenticationError as error:
        raise ClusterError(f"Ray Jobs at {address} {TOKEN_REFUSED}") from error
    except (OSError, RuntimeError, ValueError) as error:
        raise ClusterError(f"Ray Jobs at {address}: {first_line(error)}") from error


def follow(
    client: "JobSubmissionClient",
    job_id: str,
    *,
    on_interrupt: OnInterrupt = "ask",
    stream: TextIO = sys.stderr,
    away_s: float = AWAY_S,
) -> Ending:
    """Print the job's log as it grows until the job has ended, and how it ended.

    The log is asked for again and again, not followed through a socket: Ray may end that before the job ends.
    A head that does not answer is waited for; after `away_s` this raises ClusterError.
    """
    from ray.exceptions import AuthenticationError

    shown, heard = 0, time.monotonic()
    while True:
        try:
            try:
                info = client.get_job_info(job_id)
                shown = show_log(client, job_id, shown, stream)
                heard = time.monotonic()
                if info.status.is_terminal():
                    show_log(client, job_id, shown, stream)
                    return _ending(job_id, info, stream)
            except AuthenticationError as error:
                raise ClusterError(f"{job_id}: the cluster {TOKEN_REFUSED}") from error
            except (OSError, RuntimeError) as error:
                _give_up(job_id, error, time.monotonic() - heard, away_s)
            time.sleep(POLL_S if shown else EAGER_S)
        except KeyboardInterrupt:
            if _shall_stop(job_id, on_interrupt, stream):
                client.stop_job(job_id)
                on_interrupt = "leave"
            else:
                print(f"\n{job_id} goes on; `raydiance jobs attach {job_id}` follows it again", file=stream)
                return Ending(130)


def show_log(client: "JobSubmissionClient", job_id: str, shown: int, stream: TextIO) -> int:
    """Print what is new in the log; how much of it has been shown now."""
    try:
        log = client.get_job_logs(job_id)
    except RuntimeError:  # not there yet, or the node is gone: the status tells
        return shown
    stream.write(log[shown:])
    stream.flush()
    return max(shown, len(log))


def first_line(error: object) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _give_up(job_id: str, error: Exception, silent_s: float, away_s: float) -> None:
    if "does not exist" in str(error):
        raise ClusterError(f"{job_id}: the cluster no longer knows it; submit it again") from error
    if silent_s > away_s:
        raise ClusterError(
            f"{job_id}: the cluster has not answered for {silent_s:.0f} s ({first_line(error)}); once it is "
            "back, run the same command again to attach"
        ) from error


def _ending(job_id: str, info: Any, stream: TextIO) -> Ending:
    if info.status == "SUCCEEDED":
        return Ending(0)
    if info.status == "STOPPED":
        print(f"{job_id} was stopped", file=stream)
        return Ending(130)
    code = info.driver_exit_code
    if not code:
        print(f"{job_id}: {first_line(info.message or 'failed without a message')}", file=stream)
        return Ending(1, lost=_is_lost(info.error_type))
    status = 128 - code if code < 0 else code
    return Ending(status, lost=status == TOLD_TO_END)


def _is_lost(error_type: object) -> bool:
    """Whether Ray says that the process that watches over the job went away, and not the job itself."""
    return "SUPERVISOR_ACTOR" in str(error_type) and "UNSCHEDULABLE" not in str(error_type)


def _shall_stop(job_id: str, on_interrupt: OnInterrupt, stream: TextIO) -> bool:
    if on_interrupt != "ask":
        return on_interrupt == "stop"
    if not sys.stdin.isatty():
        return False
    try:
        return input(f"\nStop {job_id}? [y/N] ").strip().lower().startswith("y")
    except (KeyboardInterrupt, EOFError):
        return False
