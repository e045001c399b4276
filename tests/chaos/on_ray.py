"""Faults under Ray: a worker (F1), the driver (F2), a node (F3), the head (F4)."""

import atexit
import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from random import Random
from typing import Any

import psutil
from tests.chaos.on_processes import HERE, NUM_CHECKPOINTS, each_once, golden_of_two
from tests.chaos.outside import History, committed, contents, history, leftovers, torn
from tests.chaos.ray_nodes import Cluster
from tests.chaos.trial import Fault, Trial
from tests.chaos.work import PHASES, Plan
from tests.conftest import ROOT

from raydiance.storage import Store

__all__ = ["FAULTS", "killed_driver", "killed_worker"]

BOUND_S = {"F1": 60.0, "F2": 90.0, "F3": 90.0, "F19": 90.0}
ENDED_S = 75.0


@functools.cache
def cluster() -> Cluster:
    """One head with one core for all trials; nodes come and go."""
    found = Cluster()
    atexit.register(found.__exit__, None, None, None)
    return found.__enter__()


def undisturbed(name: str) -> Path:
    """A folder for what nothing happens to, until this process ends."""
    folder = Path(tempfile.mkdtemp(prefix=f"raydiance-{name}-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def begin(what: Mapping[str, Any], settings: Mapping[str, Any], log: Path) -> "subprocess.Popen[bytes]":
    """A driver in a process of its own."""
    known = {name: value for name, value in os.environ.items() if not name.startswith("RAY")}
    joined = cluster().environment() if settings.get("address") != "local" else {}
    with log.open("ab") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "tests.chaos.drive", json.dumps(what), json.dumps(settings)],
            cwd=ROOT,
            env=known | HERE | joined,
            stdout=output,
            stderr=subprocess.STDOUT,
        )


def killed_worker(phase: str, random: Random, folder: Path) -> Trial:
    """F1: SIGKILL of one of two workers, inside a step or a checkpoint (which rank 0 writes)."""
    rank = random.randrange(2) if phase == "compute" else 0
    last = 40 if phase == "compute" else NUM_CHECKPOINTS
    plan = Plan(
        store=str(folder / "store"),
        log=str(folder / "log"),
        kill=(phase, random.randrange(last)),
        kill_rank=rank,
        marker=str(folder / "marker"),
    )
    driver = begin(asdict(plan), {"address": "local", "num_workers": 2}, folder / "driver.log")
    status = _wait(driver)
    trial = Trial("F1 in Ray", phase, 0, held={"killed": (folder / "marker").exists()})
    return _judge(trial, plan, status, folder)


def killed_driver(
    phase: str, random: Random, folder: Path, *, in_the_end: list[Callable[[], list[str]]] | None = None
) -> Trial:
    """F2: SIGKILL of the driver while its workers train; then at once the same command again.

    Whether all of its processes have ended by themselves is waited for, or left for `in_the_end`.
    """
    plan = Plan(store=str(folder / "store"), log=str(folder / "log"), pause_s=0.1)
    settings = {"address": "local", "num_workers": 2}
    driver = begin(asdict(plan), settings, folder / "driver.log")
    _wait_for_step(plan, random.randrange(8, 32), driver)
    trial = Trial("F2", phase, 0)
    family = family_of(driver)
    driver.kill()
    killed = time.monotonic()
    trial.held["killed"] = driver.wait() == -signal.SIGKILL
    trial.held["I1 at once"] = not torn(contents(plan.store))
    status = _wait(begin(asdict(replace(plan, pause_s=0.002)), settings, folder / "driver.log"))
    if in_the_end is None:
        trial.held["I9 processes"] = not (left := survivors(family, killed))
        trial.note = " ".join(left)
    else:
        in_the_end.append(functools.partial(survivors, family, killed))
    return _judge(trial, plan, status, folder)


@functools.cache
def undisturbed_search() -> Mapping[str, Any]:
    folder = undisturbed("search")
    what = {"search": str(folder / "store")}
    assert begin(what, {"address": "local"}, folder / "driver.log").wait(300) == 0
    return _found(folder)


def killed_search(phase: str, random: Random, folder: Path) -> Trial:
    """F2: SIGKILL of a search at half; then the same command again: the same trials, the same plans."""
    what = {"search": str(folder / "store")}
    whole = undisturbed_search()
    driver = begin(what, {"address": "local"}, folder / "driver.log")
    _wait_for_trials(folder / "store", random.randrange(2, 6), driver)
    family = family_of(driver)
    driver.kill()
    killed = time.monotonic()
    trial = Trial("F2", phase, 0)
    trial.held["killed"] = driver.wait() == -signal.SIGKILL
    status = _wait(begin(what, {"address": "local"}, folder / "driver.log"), 240)
    trial.recovery_s = time.monotonic() - killed
    trial.held["I9 processes"] = not (left := survivors(family, killed))
    trial.note = " ".join(left)
    trial.held |= {
        "I1": not torn(contents(str(folder / "store"))),
        "I3": status == 0 and _found(folder) == whole,
        "I10": status == 0,
    }
    return trial


def lost_node(phase: str, random: Random, folder: Path) -> Trial:
    """F3: SIGKILL of a node that one of two workers trains on; another node joins, or none does."""
    cluster().add("second")
    plan = Plan(store=str(folder / "store"), log=str(folder / "log"), pause_s=0.1)
    settings: dict[str, Any] = {"address": cluster().address, "num_workers": 2, "replace_s": 60}
    if phase == "not replaced":
        settings |= {"replace_s": 5, "min_workers": 1}
    driver = begin(asdict(plan), settings, folder / "driver.log")
    _wait_for_step(plan, random.randrange(8, 32), driver)
    cluster().kill("second", only_raylet=phase == "raylet alone")
    if phase != "not replaced":
        cluster().add("third")
    status = _wait(driver, 240)
    if phase != "not replaced":
        cluster().kill("third")
    trial = _judge(Trial("F3", phase, 0), plan, status, folder)
    if phase == "not replaced":  # sums over one worker are rounded otherwise than over two
        trial.held["I3"] = _close(history(plan.log), golden_of_two())
        trial.note = "" if trial.passed else trial.note
    return trial


DRAIN = """
import ray, sys, time
ray.init()
(node,) = [each["NodeID"] for each in ray.nodes()
           if each["Alive"] and "node:__internal_head__" not in each["Resources"]]
deadline_ms = int(1000 * time.time()) + 60_000
accepted, why = ray._raylet.GcsClient(address=sys.argv[1]).drain_node(node, 2, "taken away", deadline_ms)
assert accepted, why
"""


def drained_node(phase: str, random: Random, folder: Path) -> Trial:
    """F19: a node that one of two workers trains on is to be taken away in a minute; another one joins."""
    cluster().add("second")
    plan = Plan(store=str(folder / "store"), log=str(folder / "log"), pause_s=0.5)
    settings = {"address": cluster().address, "num_workers": 2, "replace_s": 60, "max_failures": 0}
    driver = begin(asdict(plan), settings, folder / "driver.log")
    _wait_for_step(plan, random.randrange(2, 10), driver)
    drain = [sys.executable, "-c", DRAIN, cluster().address]
    subprocess.run(drain, check=True, env=os.environ | HERE | cluster().environment(), capture_output=True)
    cluster().add("third")
    status = _wait(driver, 240)
    for name in ("second", "third"):
        cluster().kill(name)
    trial = _judge(Trial("F19", phase, 0), plan, status, folder)
    trial.held["I2 none lost"] = trial.lost_steps == 0
    trial.held["ended once"] = len(history(plan.log).begun) == 2
    trial.note = "" if trial.passed else trial.note or _end_of(folder)
    return trial


def lost_node_in_search(phase: str, random: Random, folder: Path) -> Trial:
    """F3: SIGKILL of a node that runs a trial of a search."""
    whole = undisturbed_search()
    cluster().add("second")
    what = {"search": str(folder / "store")}
    driver = begin(what, {"address": cluster().address}, folder / "driver.log")
    _wait_for_trials(folder / "store", random.randrange(1, 4), driver)
    cluster().kill("second")
    began = time.monotonic()
    status = _wait(driver, 240)
    trial = Trial("F3", phase, 0, recovery_s=time.monotonic() - began)
    trial.held |= {
        "I1": not torn(contents(str(folder / "store"))),
        "I3": status == 0 and _found(folder) == whole,
        "I10": status == 0,
    }
    trial.note = "" if trial.passed else _end_of(folder)
    return trial


def family_of(driver: "subprocess.Popen[bytes]") -> list[psutil.Process]:
    """What the driver has started; nothing if it has ended."""
    return [] if driver.poll() is not None else psutil.Process(driver.pid).children(recursive=True)


def survivors(family: list[psutil.Process], killed: float) -> list[str]:
    """Which of a killed driver's processes have not ended by themselves in time; they are then.

    Ray's two agents of a node give the head a minute to hear that the node is lost, also where the head is, too.
    """
    deadline = killed + ENDED_S
    while (left := [each for each in family if _runs(each)]) and time.monotonic() < deadline:
        time.sleep(0.2)
    names = []
    for process in left:
        with suppress(psutil.NoSuchProcess):
            names.append(" ".join(process.cmdline())[:60].strip())
            process.kill()
    return names


def _runs(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    return False


def _judge(trial: Trial, plan: Plan, status: int | None, folder: Path) -> Trial:
    objects, seen, whole = contents(plan.store), history(plan.log), golden_of_two()
    store = Store.open(plan.store)
    store.collect(store.garbage(0.0))
    trial.lost_steps, trial.recovery_s = seen.lost_steps, seen.recovery_s
    trial.held |= {
        "I1": not torn(objects) and bool(committed(objects)),
        "I2": seen.lost_steps <= plan.most_lost,
        "I3": seen.repeated_exactly() and seen.final == whole.final,
        "I4": each_once(seen),
        "I8": seen.recovery_s < BOUND_S[trial.fault.split()[0]],
        "I9": not leftovers(contents(plan.store)),
        "I10": status == 0,
    }
    trial.note += "" if trial.passed else _end_of(folder)
    return trial


def _close(seen: History, whole: History) -> bool:
    last = max(whole.exact)
    losses = [float.fromhex(each.exact[last][-1]["train/loss"]) for each in (seen, whole)]
    return abs(losses[0] - losses[1]) <= 1e-4 * abs(losses[1])


def _wait(driver: "subprocess.Popen[bytes]", timeout_s: float = 180.0) -> int | None:
    try:
        return driver.wait(timeout_s)
    except subprocess.TimeoutExpired:
        driver.kill()
        driver.wait()
        return None


def _wait_for_step(plan: Plan, step: int, driver: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + 180
    while driver.poll() is None and time.monotonic() < deadline:
        if max(history(plan.log).items, default=-1) >= step:
            return
        time.sleep(0.1)


def _wait_for_trials(store: Path, count: int, driver: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + 180
    while driver.poll() is None and time.monotonic() < deadline:
        if len(list(store.glob("checkpoints/*/trial-*/manifest.json"))) >= count:
            return
        time.sleep(0.05)


def _found(folder: Path) -> Mapping[str, Any]:
    """What a search found, without what it took."""
    found: dict[str, Any] = json.loads((folder / "found.json").read_text())
    trials = [{key: value for key, value in each.items() if key != "call_ms"} for each in found["trials"]]
    return found | {"trials": trials}


def _end_of(folder: Path) -> str:
    return (folder / "driver.log").read_text(errors="replace")[-600:]


FAULTS = (
    Fault(
        "F1 in Ray",
        "worker of two killed (SIGKILL)",
        "Ray Train's group is started again by itself, and goes on from the last committed checkpoint.",
        PHASES,
        killed_worker,
        dear=True,
    ),
    Fault(
        "F2",
        "driver killed (SIGKILL)",
        "All its processes end; the same command goes on: to the same weights, to the same trials and plans.",
        ("training",),
        killed_driver,
        dear=True,
    ),
    Fault(
        "F2",
        "driver killed (SIGKILL)",
        "",
        ("search",),
        killed_search,
        dear=True,
    ),
    Fault(
        "F3",
        "node of two lost (SIGKILL)",
        "The group is started again on a node that takes its place within cluster.replace_s, or with fewer "
        "workers where cluster.min_workers allows it.",
        ("power", "raylet alone", "not replaced"),
        lost_node,
        dear=True,
    ),
    Fault(
        "F3",
        "node of two lost (SIGKILL)",
        "",
        ("search",),
        lost_node_in_search,
        dear=True,
    ),
    Fault(
        "F19",
        "training told to end",
        "",
        ("node drained",),
        drained_node,
        dear=True,
    ),
)
