"""One trial of each fault that is over in seconds; `make chaos` does them all, and many times."""

import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from random import Random

import pytest
from tests.chaos import on_ceph, on_processes, on_servers
from tests.chaos.on_processes import damaged_checkpoint
from tests.chaos.trial import Fault, Trial, table

CHEAP = [
    pytest.param(fault, phase, id=f"{fault.name}-{phase}")
    for fault in on_processes.FAULTS
    for phase in (fault.phases[-1:] if fault.name == "F1" else fault.phases[:3])
]


@pytest.mark.parametrize(("fault", "phase"), CHEAP)
def test_what_must_hold_holds(fault: Fault, phase: str, tmp_path: Path) -> None:
    tmp_path.chmod(0o711)
    (trial,) = fault.inject((phase,), Random(0), tmp_path)
    assert trial.passed, trial


def test_the_checks_see_a_flipped_bit_where_nobody_looks(tmp_path: Path) -> None:
    """A program that takes every file as it is goes on from wrong numbers, and this must be seen."""
    trial = damaged_checkpoint("bit flipped", Random(0), tmp_path, unchecked=True)
    assert not trial.held["I3"], trial


def one_trial(faults: Iterable[Fault], name: str, phase: str, folder: Path) -> None:
    (fault,) = (each for each in faults if each.name == name and phase in each.phases)
    (trial,) = fault.inject((phase,), Random(0), folder)
    assert trial.passed, trial


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("name", "phase"),
    [("F6", "server"), pytest.param("F7", "under MLflow", marks=pytest.mark.needs("postgres"))],
)
def test_a_training_does_not_wait_for_its_record(name: str, phase: str) -> None:
    """Servers are started, killed and started again: half a minute each."""
    with tempfile.TemporaryDirectory(prefix="raydiance-faults-") as name_of_folder:
        folder = Path(name_of_folder)
        folder.chmod(0o711)  # PostgreSQL has a user of its own
        one_trial(on_servers.FAULTS, name, phase, folder)


@pytest.mark.needs("radosgw")
@pytest.mark.skipif(
    os.geteuid() != 0 and not os.environ.get("RAYDIANCE_REQUIRE_SERVERS"),
    reason="Ceph's disk is made as root",
)
@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("name", "phase"),
    [
        ("F1", "manifest to S3"),
        ("F8", "gateway"),
        ("F9", "store"),
        ("F20", "create-only PUT"),
    ],
)
def test_on_ceph_what_was_acknowledged_is_there(name: str, phase: str, tmp_path: Path) -> None:
    """A server with create-only PUT (10 s until it runs): the one that rclone's is not."""
    one_trial(on_ceph.FAULTS, name, phase, tmp_path)


def test_a_table_counts_what_failed() -> None:
    fault = Fault("F1", "killed", "", ("a", "b"), lambda phases, random, folder: [])
    good, bad = (
        Trial("F1", "a", 0, {"I1": True}, 3, 2.0),
        Trial("F1", "a", 1, {"I1": True, "I10": False}, 7, 4.0),
    )
    row = table([fault], [good, bad]).splitlines()[-1]
    assert row == "| F1 killed | a | 2, 1 | - | I1 I10 | 7 | 3.0 (4.0) |"
    assert "| a | 1, 0 | <= 100% |" in table([fault], [good])
