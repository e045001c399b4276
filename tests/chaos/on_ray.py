"""Faults under Ray: a worker (F1), the driver (F2), a node (F3), the head (F4)."""

import functools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from random import Random
from typing import Any

import psutil
from tests.chaos.on_processes import HERE, each_once, golden_of_two
from tests.chaos.outside import History, committed, contents, history, leftovers, torn
from tests.chaos.ray_nodes import Cluster
from tests.chaos.trial import ENDINGS, Fault, Trial, singly
from tests.chaos.work import PHASES, Plan
from tests.conftest import ROOT

from raydiance.storage import Store

__all__ = [
    "FAULTS",
    "begin",
    "cluster",
    "end_of",
    "joined",
    "killed_driver",
    "killed_workers",
    "left_behind",
    "wait",
]

BOUND_S = {"F1": 60.0, "F2": 90.0, "F3": 90.0, "F19": 90.0}
ENDED_S, FREED_S = 75.0, 30.0
EVERY = 7  # steps between checkpoints


@functools.cache
def cluster() -> Cluster:
    """One head with one core for all trials; nodes come and go."""
    found = Cluster()
    ENDINGS.callback(found.__exit__, None, None, None)
    return found.__enter__()


def begin(
    what: Mapping[str, Any], settings: Mapping[str, Any], log: Path, *, drained: bool = False
) -> "subprocess.Popen[bytes]":
    """A driver in a process of its own; drained: nodes will be."""
    known = {name: value for name, value in os.environ.items() if not name.startswith("RAY")}
    joined = cluster().environment() if settings.get("address") != "local" else {}
    if not drained:  # nobody needs to listen for a warning; this spares each start a process
        joined["RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"] = "0"
    with log.open("ab") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "tests.chaos.drive", json.dumps(what), json.dumps(settings)],
            cwd=ROOT,
            env=known | HERE | joined,
            stdout=output,
            stderr=subprocess.STDOUT,
        )


def joined() -> dict[str, Any]:
    """How a training by two workers joins the cluster, where each of them has a node."""
    cluster().wait_for_nodes(2)
    return {"address": cluster().address, "num_workers": 2}


def killed_workers(phases: Sequence[str], random: Random, folder: Path) -> list[Trial]:
    """F1: SIGKILL of one of two workers, inside a step or a checkpoint (which rank 0 writes), as often as there
    are phases: each attempt of one training is killed in another phase, but the last.
    """
    order = random.sample(list(phases), len(phases))
    kills = [
        (phase, random.randrange(3 * EVERY), random.randrange(2))
        if phase == "compute"
        else (phase, random.randrange(3), 0)
        for phase in order
    ]
    steps = 4 * EVERY * (len(kills) + 1)  # an attempt may keep three checkpoints and lose a fourth
    plan = _plan(
        folder, steps=steps, checkpoint_every=EVERY, kills=tuple(kills), marker=str(folder / "killed")
    )
    settings = {"address": "local", "num_workers": 2, "max_failures": len(kills)}
    driver = begin(asdict(plan), settings, folder / "driver.log")
    status = wait(driver, 60.0 * (len(kills) + 2))
    moments = plan.moments
    trials = [
        Trial("F1 in Ray", phase, 0, held={"killed": k < len(moments)}) for k, phase in enumerate(order)
    ]
    _judge(trials, plan, status, folder, moments)
    return [trials[order.index(phase)] for phase in phases]


def killed_driver(
    phase: str, random: Random, folder: Path, *, in_the_end: list[Callable[[], list[str]]] | None = None
) -> Trial:
    """F2: SIGKILL of a driver with a Ray of its own while its workers train; then at once the same command again.

    Whether all of its processes have ended by themselves is waited for, or left for `in_the_end`.
    """
    plan = _plan(folder, pause_s=0.1)
    settings = {"address": "local", "num_workers": 2}
    driver = begin(asdict(plan), settings, folder / "driver.log")
    _wait_for_step(plan, random.randrange(8, 32), driver)
    trial = Trial("F2", phase, 0)
    family = family_of(driver)
    driver.kill()
    moment, killed = time.time(), time.monotonic()
    trial.held["killed"] = driver.wait() == -signal.SIGKILL
    trial.held["I1 at once"] = not torn(contents(plan.store))
    status = wait(begin(asdict(replace(plan, pause_s=0.002)), settings, folder / "driver.log"))
    if in_the_end is None:
        trial.held["I9 processes"] = not (left := survivors(family, killed))
        trial.note = " ".join(left)
    else:
        in_the_end.append(functools.partial(survivors, family, killed))
    _judge([trial], plan, status, folder, [moment])
    return trial


def killed_drivers(phases: Sequence[str], random: Random, folder: Path) -> list[Trial]:
    """F2: SIGKILL of the driver of one training after another driver of it, on a Ray that goes on."""
    plan = _plan(folder, steps=40 * (len(phases) + 1), pause_s=0.05)
    settings, trials, moments = joined(), [Trial("F2", phase, 0) for phase in phases], []
    for trial in trials:
        driver = begin(asdict(plan), settings, folder / "driver.log")
        _wait_for_step(plan, _done(plan) + random.randrange(8, 32), driver)
        driver.kill()
        moments.append(time.time())
        trial.held["killed"] = driver.wait() == -signal.SIGKILL
        trial.held["I1 at once"] = not torn(contents(plan.store))
    status = wait(begin(asdict(replace(plan, pause_s=0.002)), settings, folder / "driver.log"))
    _judge(trials, plan, status, folder, moments)
    return trials


def lost_nodes(phases: Sequence[str], random: Random, folder: Path) -> list[Trial]:
    """F3: SIGKILL of the node that one of two workers trains on; another node joins; then that one is lost."""
    plan = _plan(folder, steps=40 * (len(phases) + 1), pause_s=0.05)
    settings = joined() | {"replace_s": 60, "max_failures": len(phases)}
    driver = begin(asdict(plan), settings, folder / "driver.log")
    trials, moments = [Trial("F3", phase, 0) for phase in phases], []
    for trial in trials:
        _wait_for_step(plan, _done(plan) + random.randrange(8, 32), driver)
        cluster().kill(cluster().others[-1], only_raylet=trial.phase == "raylet alone")
        moments.append(time.time())
        cluster().wait_for_nodes(2)
    _judge(trials, plan, wait(driver, 240), folder, moments)
    return trials


def node_not_replaced(phase: str, random: Random, folder: Path) -> Trial:
    """F3: SIGKILL of the node that one of two workers trains on; no other one joins."""
    plan = _plan(folder, pause_s=0.05)
    settings = joined() | {"replace_s": 5, "min_workers": 1}
    driver = begin(asdict(plan), settings, folder / "driver.log")
    _wait_for_step(plan, random.randrange(8, 32), driver)
    cluster().kill(cluster().others[-1])
    moment, trial = time.time(), Trial("F3", phase, 0)
    status = wait(driver, 240)
    _judge([trial], plan, status, folder, [moment])
    # sums over one worker are rounded otherwise than over two
    trial.held["I3"] = _close(history(plan.log), golden_of_two())
    trial.note = "" if trial.passed else trial.note
    return trial


DRAIN = """
import ray, sys, time
ray.init()
leaving = ray._private.state.state.get_draining_nodes()
others = [each["NodeID"] for each in ray.nodes()
          if each["Alive"] and "node:__internal_head__" not in each["Resources"]]
(node,) = set(others) - set(leaving)
deadline_ms = int(1000 * time.time()) + 60_000
accepted, why = ray._raylet.GcsClient(address=sys.argv[1]).drain_node(node, 2, "taken away", deadline_ms)
assert accepted, why
"""


def drained_nodes(phases: Sequence[str], random: Random, folder: Path) -> list[Trial]:
    """F19: the node that one of two workers trains on is to be taken away in a minute; another one joins, and is
    to be taken away, too.
    """
    plan = _plan(folder, steps=20 * (len(phases) + 1), pause_s=0.3)
    settings = joined() | {"replace_s": 60, "max_failures": 0, "max_preemptions": len(phases)}
    driver = begin(asdict(plan), settings, folder / "driver.log", drained=True)
    trials, moments = [Trial("F19", phase, 0) for phase in phases], []
    drain = [sys.executable, "-c", DRAIN, cluster().address]
    environment = os.environ | HERE | cluster().environment()
    for trial in trials:
        _wait_for_step(plan, _done(plan) + random.randrange(2, 10), driver)
        leaving = cluster().others[-1]
        moments.append(time.time())
        done = subprocess.run(drain, check=False, env=environment, capture_output=True)
        trial.held["drained"] = done.returncode == 0
        cluster().wait_for_nodes(3)
        _wait_for_attempt(plan, len(moments) + 1, driver)
        cluster().kill(leaving)
    status = wait(driver, 240)
    _judge(trials, plan, status, folder, moments)
    for trial in trials:
        trial.held["I2 none lost"] = trial.lost_steps == 0
        trial.held["ended once"] = len(history(plan.log).begun) == len(trials) + 1
        trial.note = "" if trial.passed else trial.note or end_of(folder)
    return trials


def _plan(folder: Path, **more: Any) -> Plan:
    return Plan(store=str(folder / "store"), log=str(folder / "log"), **more)


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


def _judge(
    trials: Sequence[Trial], plan: Plan, status: int | None, folder: Path, moments: Sequence[float]
) -> None:
    """Fill in what must hold after what was done to a training at these moments: for each, and for the whole."""
    objects, seen, whole = contents(plan.store), history(plan.log), golden_of_two(plan.steps)
    store = Store.open(plan.store)
    store.collect(store.garbage(0.0))
    held = {
        "I1": not torn(objects) and bool(committed(objects)),
        "I3": seen.repeated_exactly()
        and (seen.final, seen.exact.keys()) == (whole.final, whole.exact.keys()),
        "I4": each_once(seen),
        "I9": not leftovers(contents(plan.store)) and not (left := left_behind(seen.pids)),
        "I10": status == 0,
    }
    for k, trial in enumerate(trials):
        if k < len(moments):
            trial.lost_steps, trial.recovery_s = seen.after(moments[k])
            trial.held["I2"] = trial.lost_steps <= plan.most_lost
            trial.held["I8"] = trial.recovery_s < BOUND_S[trial.fault.split()[0]]
        trial.held |= held
        trial.note += "" if trial.passed else f"{left} {end_of(folder)}"


def left_behind(pids: Sequence[int] = ()) -> list[str]:
    """I9: the workers that live, and what is held of the cluster (where there is one), in the end."""
    deadline = time.monotonic() + FREED_S
    while True:
        left = [f"worker {pid}" for pid in pids if psutil.pid_exists(pid) and _runs(psutil.Process(pid))]
        left += cluster().held() if cluster.cache_info().currsize else []
        if not left or time.monotonic() > deadline:
            return left
        time.sleep(0.5)


def _close(seen: History, whole: History) -> bool:
    last = max(whole.exact)
    if last not in seen.exact:
        return False
    losses = [float.fromhex(each.exact[last][-1]["train/loss"]) for each in (seen, whole)]
    return abs(losses[0] - losses[1]) <= 1e-4 * abs(losses[1])


def wait(driver: "subprocess.Popen[bytes]", timeout_s: float = 180.0) -> int | None:
    try:
        return driver.wait(timeout_s)
    except subprocess.TimeoutExpired:
        driver.kill()
        driver.wait()
        return None


def _wait_for_step(plan: Plan, step: int, driver: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + 180
    while driver.poll() is None and time.monotonic() < deadline:
        if _done(plan) >= step:
            return
        time.sleep(0.1)


def _wait_for_attempt(plan: Plan, count: int, driver: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + 180
    while driver.poll() is None and time.monotonic() < deadline and len(history(plan.log).begun) < count:
        time.sleep(0.2)


def _done(plan: Plan) -> int:
    """The newest step that was come to."""
    return max(history(plan.log).items, default=-1)


def end_of(folder: Path) -> str:
    return (folder / "driver.log").read_text(errors="replace")[-600:]


FAULTS = (
    Fault(
        "F1 in Ray",
        "worker of two killed (SIGKILL)",
        "Ray Train's group is started again by itself, and goes on from the last committed checkpoint.",
        PHASES,
        killed_workers,
        together=5,
        dear=True,
    ),
    Fault(
        "F2",
        "driver killed (SIGKILL)",
        "All its processes end; the same command goes on: to the same weights, to the same trials and plans.",
        ("training on a cluster",),
        killed_drivers,
        together=4,
        dear=True,
    ),
    Fault("F2", "driver killed (SIGKILL)", "", ("training",), singly(killed_driver), dear=True),
    Fault(
        "F3",
        "node of two lost (SIGKILL)",
        "The group is started again on a node that takes its place within cluster.replace_s, or with fewer "
        "workers where cluster.min_workers allows it.",
        ("power", "raylet alone"),
        lost_nodes,
        together=4,
        dear=True,
    ),
    Fault("F3", "node of two lost (SIGKILL)", "", ("not replaced",), singly(node_not_replaced), dear=True),
    Fault("F19", "training told to end", "", ("node drained",), drained_nodes, together=4, dear=True),
)
