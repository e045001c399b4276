"""F4: the head of the local stack is lost while a job runs on it."""

import functools
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from random import Random

from tests.chaos.outside import contents, torn
from tests.chaos.trial import ENDINGS, Fault, Trial, place_of_our_own, singly
from tests.conftest import ROOT

from raydiance.cluster import stack
from raydiance.cluster.services import started, stop

__all__ = ["FAULTS", "end", "killed_head"]

BOUND_S = 180.0


@functools.cache
def place() -> Path:
    """The folder of one stack for all trials: its head is killed and comes back in each."""
    found = place_of_our_own("stack")
    up(found)
    ENDINGS.callback(end)
    return found


def end() -> None:
    """Take it down, if it is there."""
    if place.cache_info().currsize:
        stack.down(place(), tell=_quiet)
        place.cache_clear()


def up(folder: Path) -> dict[str, str]:
    return dict(stack.up(folder, cpus=2, tell=_quiet))


def _quiet(text: str) -> None:
    pass


def killed_head(phase: str, random: Random, folder: Path) -> Trial:
    """SIGKILL of all of Ray's processes; `raydiance up` brings it back, the same submission is done again."""
    trial, environment, seed = Trial("F4", phase, 0), up(place()), random.randrange(2**31)
    submission = _submit(environment, folder, seed)
    _wait_for(folder / "said", r"submitted furniture-ingest-")
    time.sleep(random.uniform(0.0, 6.0))
    head = started(place())["ray"]
    with suppress(ProcessLookupError):
        os.killpg(head.pid, signal.SIGKILL)
    stop(head, place())
    (place() / "run" / "ray.json").unlink(missing_ok=True)
    killed = time.monotonic()
    states = {line.name: line.state for line in stack.lines(place())}
    trial.held["seen"] = states["ray"] != "running" and states["mlflow"] == "running"
    up(place())
    trial.recovery_s = time.monotonic() - killed
    status = submission.wait(BOUND_S)
    said = (folder / "said").read_text()
    trial.held["I10"] = status == 1 and "submit it again" in said.splitlines()[-1]
    trial.held["I8"] = trial.recovery_s < BOUND_S
    trial.held["goes on"] = _submit(environment, folder, seed).wait(BOUND_S) == 0
    trial.held["I1"] = not torn(contents(str(place() / "store")))
    trial.note = "" if trial.passed else (folder / "said").read_text()[-600:]
    return trial


def _submit(environment: dict[str, str], folder: Path, seed: int) -> "subprocess.Popen[bytes]":
    known = {name: value for name, value in os.environ.items() if not name.startswith(("RAY", "AWS"))}
    here = {"PYTHONPATH": str(ROOT / "platform"), "OMP_NUM_THREADS": "1"}
    with (folder / "said").open("ab") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "raydiance.cli", "submit", "ingest", "size=micro", f"seed={seed}"],
            cwd=folder,
            env=known | here | environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )


def _wait_for(path: Path, pattern: str) -> None:
    deadline = time.monotonic() + 60
    while not re.search(pattern, path.read_text()) and time.monotonic() < deadline:
        time.sleep(0.1)


FAULTS = (
    Fault(
        "F4",
        "Ray's head killed (SIGKILL), no Redis",
        "`raydiance status` says so; whoever follows the job ends with one line; after `raydiance up` the same "
        "submission goes on from its checkpoints.",
        ("head",),
        singly(killed_head),
        dear=True,
    ),
)
