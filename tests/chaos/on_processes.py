"""Faults of processes, files and disks: F1, F10, F14 and F20, on trainings that take half a second each."""

import functools
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from multiprocessing.process import BaseProcess
from pathlib import Path
from random import Random

from tests.chaos import work
from tests.chaos.outside import History, committed, contents, history, leftovers, torn
from tests.chaos.trial import Fault, Trial, singly
from tests.chaos.work import PHASES, Plan
from tests.conftest import ROOT
from tests.training.toys import NUM_ITEMS

from raydiance.storage import Store

__all__ = [
    "FAULTS",
    "HERE",
    "damaged_checkpoint",
    "each_once",
    "follow_up",
    "golden_of_two",
    "run",
    "start",
]

DAMAGES = ("truncated", "emptied", "bit flipped", "files swapped", "deleted", "another run's manifest")
NUM_CHECKPOINTS = 6  # of a Plan as it comes
BOUND_S = 60.0
HERE = {"PYTHONPATH": os.pathsep.join([str(ROOT / "platform"), str(ROOT)]), "OMP_NUM_THREADS": "1"}


def start(function: object, *arguments: object) -> BaseProcess:
    """A process of its own, forked from one that has torch and MLflow loaded but has never used them."""
    # of the process that is forked from, which would not find what it is to load
    os.environ |= HERE | {"MLFLOW_DISABLE_TELEMETRY": "true"}
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.chaos.work", "torch._dynamo", "raydiance.tracking.mlflow"])
    process = context.Process(target=function, args=arguments)
    process.start()
    return process


def run(plan: Plan) -> int | None:
    """One attempt, to its end: the exit status; negative: the signal that ended it."""
    process = start(work.train_here, plan)
    process.join(BOUND_S)
    if process.exitcode is None:
        process.kill()
        process.join()
        return None
    return process.exitcode


@functools.cache
def golden() -> History:
    """A training that nothing happened to."""
    with tempfile.TemporaryDirectory(prefix="raydiance-golden-") as folder:
        plan = Plan(store=f"{folder}/store", log=f"{folder}/log")
        assert run(plan) == 0
        return history(plan.log)


def start_two(plan: Plan, folder: Path) -> list[BaseProcess]:
    """Two workers, without Ray, that meet at a file of their own."""
    meeting = tempfile.mktemp(prefix="meeting-", dir=folder)
    return [start(work.train_as_one_of_two, plan, rank, meeting) for rank in range(2)]


@functools.cache
def golden_of_two(steps: int = Plan.steps) -> History:
    """A training by two workers that nothing happened to."""
    with tempfile.TemporaryDirectory(prefix="raydiance-golden-") as folder:
        plan = Plan(store=f"{folder}/store", log=f"{folder}/log", steps=steps)
        assert _statuses(start_two(plan, Path(folder))) == [0, 0]
        return history(plan.log)


def _statuses(processes: Sequence[BaseProcess]) -> list[int | None]:
    for process in processes:
        process.join(BOUND_S)
    return [process.exitcode for process in processes]


def follow_up(trial: Trial, plan: Plan, status: int | None, whole: History | None = None) -> Trial:
    """Fill in what must hold after a training that was broken off has been run to its end."""
    objects, seen, whole = contents(plan.store, "checkpoints"), history(plan.log), whole or golden()
    store = Store.open(plan.store)
    store.collect(store.garbage(0.0))
    trial.lost_steps, trial.recovery_s = seen.lost_steps, seen.recovery_s
    trial.held |= {
        "I1": not torn(objects) and len(committed(objects)) >= 1,
        "I2": seen.lost_steps <= plan.most_lost,
        "I3": seen.repeated_exactly()
        and (seen.final, seen.exact.keys()) == (whole.final, whole.exact.keys()),
        "I4": each_once(seen),
        "I8": seen.recovery_s < BOUND_S,
        "I9": not leftovers(contents(plan.store)),
        "I10": status == 0,
    }
    return trial


def each_once(seen: History) -> bool:
    return seen.each_item_once(NUM_ITEMS)


def killed_training(phase: str, random: Random, folder: Path) -> Trial:
    """F1: SIGKILL at a point within a step or a checkpoint, or at any moment; then the same command again."""
    plan = Plan(store=str(folder / "store"), log=str(folder / "log"))
    if phase == "any moment":
        status = _kill_at_any_moment(replace(plan, pause_s=0.02), random)
    else:
        last = plan.steps if phase == "compute" else NUM_CHECKPOINTS
        status = run(replace(plan, kills=((phase, random.randrange(last), 0),)))
    trial = Trial("F1", phase, 0)
    trial.held["killed"] = status == -signal.SIGKILL
    objects = contents(plan.store)
    trial.held["I1 at once"] = not torn(objects)
    kept = [
        int(key.rpartition("/")[2].partition("-")[0]) for key in committed(objects) if "checkpoints/" in key
    ]
    follow_up(trial, plan, run(plan))
    newest, begun = max(kept, default=0), history(plan.log).begun
    # after the last checkpoint there is no step left to begin with
    trial.held["from the newest"] = begun[-1] == newest if newest < plan.steps else begun == [0]
    return trial


def told_training(phase: str, random: Random, folder: Path) -> Trial:
    """F19: SIGTERM or ^C between the first step and the last, to one process or to one of two; then the same
    command again.
    """
    plan = Plan(store=str(folder / "store"), log=str(folder / "log"))
    slow, pair = replace(plan, pause_s=0.02), phase == "one of two workers"
    number = signal.SIGINT if phase == "^C" else signal.SIGTERM
    processes = start_two(slow, folder) if pair else [start(work.train_here, slow)]
    told = random.randrange(len(processes))
    at = random.randrange(1, slow.steps - 10)
    while max(history(plan.log).items, default=-1) < at and processes[told].is_alive():
        time.sleep(0.005)
    os.kill(processes[told].pid or 0, number)
    statuses = _statuses(processes)
    trial = Trial("F19", phase, 0)
    # the one that was not told ends with the status of a preemption, too
    trial.held["ended"] = statuses == [128 + number] * len(processes)
    objects, ended = contents(plan.store), history(plan.log).ended[-1]
    trial.held["I1 at once"] = not torn(objects)
    newest = max(key.rpartition("/")[2][:8] for key in committed(objects))
    trial.held["I2 just in time"] = int(newest) == ended + 1
    again = _statuses(start_two(plan, folder)) if pair else [run(plan)]
    follow_up(trial, plan, max(again, key=lambda status: status != 0), golden_of_two() if pair else golden())
    trial.held["I2 none lost"] = trial.lost_steps == 0
    return trial


def _kill_at_any_moment(plan: Plan, random: Random) -> int | None:
    process = start(work.train_here, plan)
    while not Path(plan.log + ".0").exists() and process.is_alive():
        time.sleep(0.005)
    time.sleep(random.uniform(0, plan.steps * plan.pause_s))
    process.kill()
    process.join()
    return process.exitcode


def damaged_checkpoint(phase: str, random: Random, folder: Path, *, unchecked: bool = False) -> Trial:
    """F14: the newest checkpoint of a training that was killed is damaged; then the same command again."""
    num_damaged = 2 if phase == "files swapped" else 1
    plan = Plan(store=str(folder / "store"), log=str(folder / "log"), keep=num_damaged + 1)
    # behind the third checkpoint: it is written beside the steps, and waits for the second
    run(replace(plan, kills=(("compute", random.randrange(3 * plan.checkpoint_every + 1, plan.steps), 0),)))
    root = Path(plan.store)
    older, newest = (root / key for key in list(committed(contents(plan.store)))[-2:])
    damage(phase, newest, older, random, folder)
    trial = Trial("F14", phase, 0)
    trial.held["damaged"] = phase == "deleted" or bool(torn(contents(plan.store)))
    status = run_unchecked(plan) if unchecked else run(plan)
    kept = committed(contents(plan.store))
    follow_up(trial, plan, status)
    allowed = plan.most_lost + num_damaged * plan.checkpoint_every
    trial.held["I2"] = (trial.lost_steps or 0) <= allowed
    trial.held["I1"] = set(torn(contents(plan.store))) <= {
        f"{newest.relative_to(root)}/{entry['name']}"
        for entry in kept.get(str(newest.relative_to(root)), {"files": []})["files"]
    }
    return trial


def damage(how: str, newest: Path, older: Path, random: Random, folder: Path) -> None:
    """Do to the newest checkpoint what a disk or a person might."""
    tensors = newest / "state.safetensors"
    content = bytearray(tensors.read_bytes())
    if how == "truncated":
        tensors.write_bytes(content[: random.randrange(1, len(content))])
    elif how == "emptied":
        tensors.write_bytes(b"")
    elif how == "bit flipped":
        header = 8 + int.from_bytes(content[:8], "little")
        content[random.randrange(header, len(content))] ^= 1 << random.randrange(8)
        tensors.write_bytes(content)
    elif how == "files swapped":
        other = (older / "state.safetensors").read_bytes()
        (older / "state.safetensors").write_bytes(content)
        tensors.write_bytes(other)
    elif how == "deleted":
        shutil.rmtree(newest)
    else:
        other_plan = Plan(store=str(folder / "other"), log=str(folder / "other.log"), steps=7)
        run(replace(other_plan, width=8))
        (foreign,) = committed(contents(other_plan.store))
        shutil.copy(Path(other_plan.store) / foreign / "manifest.json", newest)


def run_unchecked(plan: Plan) -> int | None:
    """An attempt by a program that takes every file as it is: to see that the checks above see."""
    process = start(_train_unchecked, plan)
    process.join(BOUND_S)
    return process.exitcode


def _train_unchecked(plan: Plan) -> None:
    from raydiance.storage import local

    local.verify_file = lambda path, entry, name: None
    work.train_here(plan)


def two_trainers(phase: str, random: Random, folder: Path) -> Trial:
    """F20: the same run twice at the same time."""
    plan = Plan(store=str(folder / "store"), log=str(folder / "log-a"), pause_s=0.005)
    other = replace(plan, log=str(folder / "log-b"))
    processes = [start(work.train_here, each) for each in (plan, other)]
    for process in processes:
        process.join(BOUND_S)
    trial = Trial("F20", phase, 0)
    objects, ends = contents(plan.store), [history(each.log) for each in (plan, other)]
    trial.held |= {
        "I1": not torn(objects),
        "I3": {end.final for end in ends} == {golden().final},
        "I4": all(each_once(end) for end in ends),
        "I10": [process.exitcode for process in processes] == [0, 0],
    }
    return trial


def full_disk(phase: str, random: Random, folder: Path) -> Trial:
    """F10: no room for the next checkpoint, on a tmpfs in a mount namespace; then room, and the same command
    again.
    """
    plan = Plan(store=str(folder / "disk" / "store"), log=str(folder / "log"))
    (folder / "disk").mkdir()
    inside = [sys.executable, "-m", "tests.chaos.full_disk", json.dumps(asdict(plan))]
    script = f"mount -t tmpfs -o size=256k none {folder}/disk && exec {' '.join(map(_quoted, inside))}"
    become = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--mount", "--map-root-user"]
    done = subprocess.run(
        [*become, "sh", "-c", script],
        cwd=ROOT,
        env=os.environ | HERE,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    trial = Trial("F10", phase, 0, note=done.stderr[-400:])
    if done.returncode == 0:
        trial.held |= json.loads(done.stdout.splitlines()[-1])
        seen = history(plan.log)
        trial.lost_steps, trial.note = seen.lost_steps, ""
        trial.held |= {
            "I2": seen.lost_steps <= plan.most_lost,
            "I3": seen.repeated_exactly() and seen.final == golden().final,
            "I4": each_once(seen),
        }
    else:
        trial.held["I10"] = False
    return trial


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


FAULTS = (
    Fault(
        "F1",
        "training killed (SIGKILL)",
        "The same command goes on from the last committed checkpoint, to the same bits.",
        (*PHASES, "any moment"),
        singly(killed_training),
    ),
    Fault(
        "F10",
        "local disk full",
        "Exit status 1 and one line with the place and the remedy; older checkpoints stay readable.",
        ("store",),
        singly(full_disk),
    ),
    Fault(
        "F14",
        "newest checkpoint damaged",
        "It is passed over, with a warning that names file, expected and found; the one before it is used.",
        DAMAGES,
        singly(damaged_checkpoint),
    ),
    Fault(
        "F19",
        "training told to end",
        "It ends after its step, with a checkpoint; the same command goes on from there.",
        ("SIGTERM", "^C", "one of two workers"),
        singly(told_training),
    ),
    Fault(
        "F20",
        "the same run twice at once",
        "Both end well with the same bits; neither sees half of the other's files.",
        ("two trainers",),
        singly(two_trainers),
    ),
)
