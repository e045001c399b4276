"""Servers of this machine that outlive the command that starts them: a pid file and a log for each.

The pid file (JSON) also says when the process began, so that a number that was given to another process since
is not mistaken for ours.
"""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import psutil

from raydiance.errors import ClusterError
from raydiance.spec import from_plain, spec, to_plain
from raydiance.storage import write_json

__all__ = ["Service", "Started", "is_running", "launch", "started", "stop", "wait_until_ready"]

POLL_S = 0.1
START_S = 180.0
STOP_S = 30.0


@dataclass(frozen=True)
class Service:
    """A server: how it is started, where it answers, and how to find out that it does."""

    name: str
    command: tuple[str, ...]
    url: str
    ready: Callable[[], bool]
    environment: Mapping[str, str] = field(default_factory=dict)


@spec
class Started:
    """A server that was started: what its pid file says."""

    name: str
    pid: int
    began: float  # seconds since 1970, as the system tells of the process
    url: str
    log: str

    @property
    def since(self) -> datetime:
        return datetime.fromtimestamp(self.began, UTC)


def launch(service: Service, folder: Path) -> Started:
    """Start the server in a session of its own, with pid file and log in the folder; does not wait for it."""
    log, run = folder / "logs" / f"{service.name}.log", folder / "run"
    for each in (log.parent, run):
        each.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        process = subprocess.Popen(
            service.command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=os.environ | dict(service.environment),
            cwd=folder,
            start_new_session=True,
        )
    process.returncode = 0  # it outlives us on purpose; Popen would warn that nobody waited for it
    began = psutil.Process(process.pid).create_time()
    entry = Started(name=service.name, pid=process.pid, began=began, url=service.url, log=str(log))
    write_json(run / f"{service.name}.json", to_plain(entry))
    return entry


def wait_until_ready(service: Service, entry: Started) -> None:
    """Return when the server answers. Raises ClusterError with the end of its log if it ends or takes too long."""
    deadline = time.monotonic() + START_S
    while not service.ready():
        if not is_running(entry) or time.monotonic() > deadline:
            lines = Path(entry.log).read_text(encoding="utf-8", errors="replace").strip().splitlines()
            raise ClusterError(
                f"{service.name} did not start ({lines[-1].strip() if lines else 'it said nothing'}); "
                f"its log is {entry.log}"
            )
        time.sleep(POLL_S)


def started(folder: Path) -> dict[str, Started]:
    """The servers with a pid file in this folder, by name, whether they still run or not."""
    found = [from_plain(Started, json.loads(path.read_bytes())) for path in (folder / "run").glob("*.json")]
    return {entry.name: entry for entry in sorted(found, key=lambda entry: entry.began)}


def is_running(entry: Started) -> bool:
    """Whether the very process of the pid file still runs."""
    try:
        process = psutil.Process(entry.pid)
        same: bool = abs(process.create_time() - entry.began) < 1.0
        return same and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def stop(entry: Started, folder: Path) -> None:
    """Ask the server to go, wait for it, end what it left of its children, and remove the pid file."""
    family = _family(entry)
    if is_running(entry):
        process = psutil.Process(entry.pid)
        process.send_signal(signal.SIGTERM)
        psutil.wait_procs([process], timeout=STOP_S)
    _, left = psutil.wait_procs(family, timeout=3.0)
    for each in left:
        with suppress(psutil.NoSuchProcess):
            each.kill()
    psutil.wait_procs(left, timeout=10.0)
    (folder / "run" / f"{entry.name}.json").unlink(missing_ok=True)


def _family(entry: Started) -> list[psutil.Process]:
    """The server, its descendants, and those of its session that it left behind when it was killed.

    While a session has members the system gives the number of its first process to no other one.
    """
    if psutil.pid_exists(entry.pid) and not is_running(entry):
        with suppress(psutil.NoSuchProcess):
            if psutil.Process(entry.pid).status() != psutil.STATUS_ZOMBIE:
                return []
    found = {each.pid: each for each in psutil.process_iter() if _session_of(each) == entry.pid}
    if is_running(entry):
        process = psutil.Process(entry.pid)
        found |= {each.pid: each for each in (process, *process.children(recursive=True))}
    return list(found.values())


def _session_of(process: psutil.Process) -> int | None:
    try:
        return os.getsid(process.pid)
    except OSError:
        return None
