"""One trial of each fault of Ray that is over in a minute; `make chaos` does them all, and many times."""

from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import pytest
from tests.chaos import on_endpoints, on_stack
from tests.chaos.on_ray import killed_driver, killed_workers

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def in_the_end() -> Iterator[list[Callable[[], list[str]]]]:
    """What must have ended by itself by the time that other tests have been done."""
    checks: list[Callable[[], list[str]]] = []
    yield checks
    assert [check() for check in checks] == [[]]


def test_a_driver_that_is_killed_is_gone_on_from(
    tmp_path: Path, in_the_end: list[Callable[[], list[str]]]
) -> None:
    """F2: two starts of Ray. That nothing of the first one is left takes a minute, and is looked at last."""
    trial = killed_driver("training", Random(0), tmp_path, in_the_end=in_the_end)
    assert trial.passed, trial


def test_a_worker_of_two_that_is_killed_is_replaced(tmp_path: Path) -> None:
    """F1 in Ray: half a minute, in which Ray Train's group is started twice."""
    (trial,) = killed_workers(["manifest"], Random(0), tmp_path)
    assert trial.passed, trial


def test_after_the_loss_of_the_head_the_same_submission_goes_on(tmp_path: Path) -> None:
    """F4: the local stack is started, killed, and started again."""
    try:
        trial = on_stack.killed_head("head", Random(0), tmp_path)
    finally:
        on_stack.end()
    assert trial.passed, trial


@pytest.mark.needs("ip")
@pytest.mark.needs("redis")
def test_an_endpoint_does_without_the_head_whose_state_is_in_redis(tmp_path: Path) -> None:
    """F4: a Ray of two nodes, deployed to as KubeRay does it; its head is killed and comes back."""
    try:
        trial = on_endpoints.killed_head("with Redis", Random(0), tmp_path)
    finally:
        on_endpoints.end()
    assert trial.passed, trial
