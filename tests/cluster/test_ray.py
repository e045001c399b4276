"""Map and launch on a real Ray of this machine, with real worker processes."""

import io
import os
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import ray
from cluster_work import (
    die_once,
    diverge,
    lose_the_other,
    meet_and_regress,
    picky,
    regress,
    regress_until_told,
    square,
    who_am_i,
)
from ray.util.placement_group import placement_group_table
from tests.chaos.on_processes import start
from tests.support.listeners import beyond_loopback, listeners

from raydiance.cluster.session import session
from raydiance.cluster.tasks import TaskMap
from raydiance.cluster.train import Launcher, _cause, _WorkerLostError
from raydiance.config import ClusterSpec, ValidationSpec
from raydiance.errors import ClusterError, NonFiniteLossError, TrainingError
from raydiance.storage import Store
from raydiance.tracking import Interrupted, LineProgress, MemoryTracker, NullTracker, QuietProgress

# Ray Train imports Ray Data, whose own default settings warn of themselves.
pytestmark = [
    pytest.mark.filterwarnings(r"ignore:.*is deprecated.*(Configure|configure):DeprecationWarning"),
    pytest.mark.filterwarnings(r"ignore:`target_shuffle_max_block_size` is deprecated:UserWarning"),
]


def test_an_address_where_nothing_is_says_so_within_ten_seconds() -> None:
    started = time.monotonic()
    with (
        pytest.raises(ClusterError, match=r"127.0.0.1:9 cannot be reached"),
        session(ClusterSpec(address="127.0.0.1:9")),
    ):
        pass
    assert time.monotonic() - started < 10


def launcher(folder: Path, **settings: object) -> Launcher:
    store = Store.open(folder / "store")
    spec = ClusterSpec(address="local", **settings)
    return Launcher(spec, "test-run", store, NullTracker(), QuietProgress(), NullTracker)


def held_of_ray() -> list[str]:
    """Actors and rooms (placement groups) that are still there after at most ten seconds."""
    deadline = time.monotonic() + 10
    while True:
        rooms = [room["state"] for room in placement_group_table().values() if room["state"] != "REMOVED"]
        actors = [actor["State"] for actor in ray._private.state.actors().values()]
        held = [f"room {state}" for state in rooms] + [f"actor {each}" for each in actors if each != "DEAD"]
        if not held or time.monotonic() > deadline:
            return held
        time.sleep(0.1)


def test_nothing_of_a_ray_of_our_own_listens_beyond_loopback(ray_here: str) -> None:
    found = listeners([os.getpid()])
    assert len(found) > 5, "Ray listens"
    assert beyond_loopback(found) == {}


def test_map_keeps_the_order_and_passes_errors_on(ray_here: str) -> None:
    tasks = TaskMap(ClusterSpec(address="local", num_tasks=2))
    assert list(tasks(square, range(20))) == [x * x for x in range(20)]
    assert list(tasks(square, [])) == []
    results = tasks(picky, range(5))
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(TrainingError, match="item 2 is no good"):
        next(results)


def test_zero_workers_train_in_this_process(tmp_path: Path) -> None:
    result = launcher(tmp_path)(who_am_i, {"base": 1})
    del result["listens"]
    assert result == {"rank": 0, "world_size": 1, "total": 1.0, "pid": os.getpid()}


def test_two_workers_train_as_one_group_and_draw_the_loss_curve_of_one(ray_here: str, tmp_path: Path) -> None:
    shown = io.StringIO()
    alone, pair = launcher(tmp_path), launcher(tmp_path, num_workers=2)
    pair = replace(pair, progress=LineProgress(shown))
    result = pair(meet_and_regress, str(tmp_path / "failed"))
    assert (result["rank"], result["world_size"], result["total"]) == (0, 2, 3.0)
    assert result["pid"] != os.getpid()
    assert pair.store.latest("checkpoints/who") is not None
    # where the group's workers meet: torch's store takes no address; a stranger can count there, and no more
    assert len(beyond_loopback(dict.fromkeys(result["listens"], ""))) == 1
    assert list((tmp_path / "store/.staging/ray").iterdir()) == [], "Ray's notes are gone when the run is"

    plain = launcher(tmp_path, validation=ValidationSpec(every=0))
    made = [
        store.get(ref)
        for store, ref in (
            (pair.store, result["made"]),
            (alone.store, alone(regress, str(tmp_path / "killed"))),
            (plain.store, plain(regress, "")),
        )
    ]
    assert [each.manifest.meta["step"] for each in made] == [50, 50, 50]
    weights = [each.path("weights.safetensors").read_bytes() for each in made]
    assert weights[1] == weights[2], "who validates its checkpoints trains as who does not"
    errors = [{row["step"]: row.get("val/error") for row in each.curves.rows} for each in (alone, pair)]
    assert [error[25] for error in errors] == [None, None], "a gap, no more"
    assert 0 < errors[0][50] == pytest.approx(errors[1][50], rel=1e-3)
    assert pair.meter.elsewhere[0] > 0, "what was spent beside the workers counts, too"
    assert all("val/error" not in row for row in plain.curves.rows)

    one, two = ([row["train/loss"] for row in each.curves.rows] for each in (alone, pair))
    assert len(one) == len(two) == 50
    assert one[-1] < 0.8 * one[0], "it learns"
    assert two == pytest.approx(one, rel=1e-4)
    assert "regress-2 50/50  loss" in shown.getvalue(), "the workers' progress is seen here"


def test_a_workers_error_arrives_as_itself(ray_here: str, tmp_path: Path) -> None:
    with pytest.raises(NonFiniteLossError, match="step 7"):
        launcher(tmp_path, num_workers=2)(diverge, None)


def test_a_killed_worker_is_replaced(ray_here: str, tmp_path: Path) -> None:
    """It dies at the very start of its training, which Ray Train forgets the room of."""
    assert launcher(tmp_path, num_workers=1, max_failures=1)(die_once, str(tmp_path / "marker")) == "done"
    with pytest.raises(ClusterError, match=r"worker 0 was lost.*run the command again"):
        launcher(tmp_path, num_workers=1, max_failures=0)(die_once, str(tmp_path / "other"))
    assert held_of_ray() == []


def test_a_worker_that_is_left_alone_is_no_failure_of_the_training(tmp_path: Path) -> None:
    """What it fails with is known before Ray knows of a lost node."""
    said = tmp_path / "said"
    pair = [start(lose_the_other, rank, str(tmp_path / "meeting"), str(said)) for rank in range(2)]
    for process in pair:
        process.join(60)
    assert [process.exitcode for process in pair] == [0, -signal.SIGKILL]
    lost = _cause({0: RuntimeError(said.read_text())})
    assert isinstance(lost, _WorkerLostError), lost
    assert not lost.preempted
    own = ValueError("its own")
    assert _cause({0: RuntimeError(said.read_text()), 1: TrainingError("its own")}).args == ("its own",)
    assert _cause({0: own}) is own


def test_workers_that_are_told_to_end_keep_their_last_step(ray_here: str, tmp_path: Path) -> None:
    """Two starts of Ray Train: the node of a worker is taken away, which is no failure; then SIGTERM, here."""
    before = signal.signal(signal.SIGTERM, lambda number, frame: sys.exit("the signal acted at once"))
    (tmp_path / "told").mkdir()
    payload, tracker = (str(tmp_path / "told"), os.getpid()), MemoryTracker()
    pair = replace(launcher(tmp_path, num_workers=2, max_failures=0), tracker=tracker)
    try:
        with pytest.raises(Interrupted) as caught:
            pair(regress_until_told, payload)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert tracker.tags == {"worker_preemptions": "1"}
    assert caught.value.code == 143
    assert 60 < caught.value.step < 150
    newest = pair.store.list("checkpoints/told")[-1].key
    assert int(newest.split("/")[-1][:8]) == caught.value.step

    alone = launcher(tmp_path)
    assert alone(regress_until_told, payload) == 150
    steps = [row["step"] for row in alone.curves.rows]
    assert steps == list(range(caught.value.step + 1, 151)), "no step is done twice"


def test_more_workers_than_there_is_room_for_are_refused(ray_here: str, tmp_path: Path) -> None:
    with pytest.raises(
        ClusterError, match=r"num_workers = 999: 999 x \(1 CPU\) can never be placed, there is room"
    ):
        launcher(tmp_path, num_workers=999)(who_am_i, {"base": 0})
