"""Faults of a search under Ray: its driver (F2) or a node (F3) is lost."""

import functools
import json
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any

from tests.chaos.on_ray import begin, cluster, end_of, joined, left_behind, wait
from tests.chaos.outside import contents, torn
from tests.chaos.trial import Fault, Trial, place_of_our_own

__all__ = ["FAULTS"]


@functools.cache
def undisturbed_search() -> Mapping[str, Any]:
    """What is found where nothing happens."""
    folder = place_of_our_own("search")
    what = {"search": str(folder / "store")}
    settings = {"address": joined()["address"]}
    assert begin(what, settings, folder / "driver.log").wait(300) == 0
    return _found(folder)


def killed_searches(phases: Sequence[str], random: Random, folder: Path) -> list[Trial]:
    """F2: SIGKILL of one driver of a search after another; then the same command again: the same trials, the same
    plans.
    """
    what, settings = {"search": str(folder / "store")}, {"address": joined()["address"]}
    whole, trials = undisturbed_search(), [Trial("F2", phase, 0) for phase in phases]
    moments, kept = [], sorted(random.sample(range(1, 6), len(trials)))
    for trial, count in zip(trials, kept, strict=True):
        driver = begin(what, settings, folder / "driver.log")
        _wait_for_trials(folder / "store", count, driver)
        driver.kill()
        moments.append(time.time())
        trial.held["killed"] = driver.wait() == -signal.SIGKILL
    status = wait(begin(what, settings, folder / "driver.log"), 240)
    _judge_search(trials, status, folder, whole)
    trials[-1].recovery_s = time.time() - moments[-1]
    return trials


def _judge_search(
    trials: Sequence[Trial], status: int | None, folder: Path, whole: Mapping[str, Any]
) -> None:
    held = {
        "I1": not torn(contents(str(folder / "store"))),
        "I3": status == 0 and _found(folder) == whole,
        "I9": not (left := left_behind()),
        "I10": status == 0,
    }
    for trial in trials:
        trial.held |= held
        trial.note = "" if trial.passed else f"{left} {end_of(folder)}"


def lost_nodes_in_search(phases: Sequence[str], random: Random, folder: Path) -> list[Trial]:
    """F3: SIGKILL of a node that runs a trial of a search; another node joins; then that one is lost."""
    whole, trials = undisturbed_search(), [Trial("F3", phase, 0) for phase in phases]
    what, settings = {"search": str(folder / "store")}, {"address": joined()["address"]}
    driver = begin(what, settings, folder / "driver.log")
    for trial, count in zip(trials, sorted(random.sample(range(1, 6), len(trials))), strict=True):
        _wait_for_trials(folder / "store", count, driver)
        trial.held["killed"] = driver.poll() is None
        cluster().kill(cluster().others[-1])
        cluster().wait_for_nodes(2)
    _judge_search(trials, wait(driver, 240), folder, whole)
    return trials


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


FAULTS = (
    Fault("F2", "driver killed (SIGKILL)", "", ("search",), killed_searches, together=2, dear=True),
    Fault("F3", "node of two lost (SIGKILL)", "", ("search",), lost_nodes_in_search, together=2, dear=True),
)
