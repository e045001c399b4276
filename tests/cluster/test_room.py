"""What fits where, in arithmetic, and what a meter counts."""

import time
from dataclasses import replace

import pytest

from raydiance.cluster.meter import Meter
from raydiance.cluster.room import fewer_workers, refuse_impossible, room_for
from raydiance.config import ClusterSpec, ValidationSpec
from raydiance.errors import ClusterError

BIG, SMALL = {"CPU": 16.0, "GPU": 2.0}, {"CPU": 2.0}


@pytest.mark.parametrize(
    ("workers", "cpus", "gpu", "nodes", "fits"),
    [
        (18, 1.0, False, [BIG, SMALL], True),
        (19, 1.0, False, [BIG, SMALL], False),
        (2, 8.0, True, [BIG, SMALL], True),
        (3, 1.0, True, [BIG, SMALL], False),
        (2, 9.0, False, [BIG, BIG], True),
        (2, 9.0, False, [BIG, SMALL], False),  # 18 cores in all, but not on one node
        (0, 1.0, False, [], True),
        (0, 1.0, True, [SMALL], False),  # the job's own process needs a GPU
        (0, 64.0, True, [BIG], True),
    ],
)
def test_workers_must_fit_node_by_node(
    workers: int, cpus: float, gpu: bool, nodes: list[dict[str, float]], fits: bool
) -> None:
    spec = ClusterSpec(num_workers=workers, cpus_per_worker=cpus, use_gpu=gpu)
    if fits:
        refuse_impossible(spec, nodes)
        return
    with pytest.raises(ClusterError, match="can never be placed"):
        refuse_impossible(spec, nodes)
    refuse_impossible(ClusterSpec(num_workers=workers, use_gpu=gpu, grows=True), nodes)


@pytest.mark.parametrize(
    ("cpus", "gpus", "workers", "fits"),
    [
        (0.0, 0.0, 18, True),  # it makes do with what is left
        (1.0, 0.0, 17, True),
        (1.0, 0.0, 18, False),
        (4.0, 0.0, 14, True),  # on the big node
        (16.0, 0.0, 2, True),
        (17.0, 0.0, 0, False),
        (1.0, 0.5, 17, True),
        (0.0, 3.0, 1, False),
    ],
)
def test_a_validation_must_fit_beside_all_workers(cpus: float, gpus: float, workers: int, fits: bool) -> None:
    asked = ValidationSpec(cpus=cpus, gpus=gpus)
    spec = ClusterSpec(num_workers=workers, validation=asked)
    refuse_impossible(replace(spec, validation=replace(asked, every=0)), [BIG, SMALL])
    if fits:
        refuse_impossible(spec, [BIG, SMALL])
        return
    with pytest.raises(ClusterError, match=r"cluster\.validation: .* can never be placed .*or .*every=0"):
        refuse_impossible(spec, [BIG, SMALL])


@pytest.mark.parametrize(
    ("least", "room", "left"),
    [(None, 7, 0), (None, 9, 8), (1, 7, 4), (1, 3, 2), (3, 3, 0), (4, 5, 4), (1, 0, 0)],
)
def test_what_is_left_of_eight_workers_shares_their_batch(least: int | None, room: int, left: int) -> None:
    spec = ClusterSpec(num_workers=8, min_workers=least)
    assert room_for(spec, [{"CPU": float(room)}]) == room
    assert fewer_workers(spec, room) == left


def test_a_meter_counts_own_time_tasks_and_what_is_held() -> None:
    meter = Meter()
    until = time.process_time() + 0.2
    while time.process_time() < until:
        pass
    own = meter.read()
    assert 0.2 <= own["cpu_seconds"] < 0.4
    assert own["gpu_seconds"] == 0.0
    meter.add(5.0)
    with meter.reserved(cpus=40.0, gpus=10.0):
        time.sleep(0.1)
    cost = meter.read()
    assert 9.0 <= cost["cpu_seconds"] < 15.0
    assert 1.0 <= cost["gpu_seconds"] < 2.0
