"""How a replica starts: beside others that have requests to answer."""

import os
import sys
import threading

import pytest
from tests.serving.conftest import SPEC

from raydiance.serving.replicas import NICENESS, Replica, unhurried
from raydiance.storage import Artifact, Store

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="threads have a niceness of their own on Linux"
)


def niceness(thread: int) -> int:
    return os.getpriority(os.PRIO_PROCESS, thread)


def test_what_is_unhurried_gives_way_and_nobody_else_does() -> None:
    usual = niceness(threading.get_native_id())
    assert unhurried(lambda: niceness(threading.get_native_id())) == usual + NICENESS
    assert niceness(threading.get_native_id()) == usual
    with pytest.raises(ZeroDivisionError):
        unhurried(lambda: 1 // 0)


def test_a_replica_that_is_up_has_the_usual_claim_to_a_core(store: Store, artifact: Artifact) -> None:
    class Bare(Replica):
        def __del__(self) -> None:  # type: ignore[override]
            """Serve awaits the other one."""

    before = set(threading.enumerate())
    replica = Bare(store, artifact.ref, SPEC)
    try:
        started = set(threading.enumerate()) - before
        assert {"ticks", "finish_0"} <= {thread.name for thread in started}
        assert {niceness(thread.native_id or 0) for thread in started} == {os.nice(0)}
    finally:
        replica._shelf.close()
