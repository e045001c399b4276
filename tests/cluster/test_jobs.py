"""Submitting to a real cluster of this machine through Ray Jobs."""

import io
import json
import os
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

from raydiance.cluster.jobs import submit
from raydiance.cluster.package import package
from raydiance.cluster.runs import Command
from raydiance.config import project_folder
from raydiance.errors import ClusterError, ConfigError
from raydiance.storage import Store

ROOT = project_folder()


@pytest.fixture
def address(ray_here: str) -> str:
    """The dashboard of a Ray that lives longer than these tests."""
    return ray_here


def raydiance(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {
        "PYTHONPATH": str(ROOT / "platform"),
        "RAYDIANCE_STORE": str(folder / "store"),
        "OMP_NUM_THREADS": "1",
    }
    return subprocess.run(
        [sys.executable, "-m", "raydiance.cli", *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )


@pytest.mark.slow
def test_a_submitted_job_leaves_its_results_here(address: str, tmp_path: Path) -> None:
    command = ["submit", "ingest", "size=micro", "tracking.kind=none", "--address", address]
    first = raydiance(tmp_path, *command)
    assert first.returncode == 0, first.stderr
    assert "stage 1 of 8: ingest" in first.stderr, "the job's log is shown"
    pointer = json.loads((tmp_path / "outputs/pipeline/furniture/ingest.json").read_text())
    assert Store.open(tmp_path / "store").get(pointer["key"]).ref.sha256 == pointer["sha256"]
    assert (tmp_path / "outputs/pipeline/furniture/metrics/ingest.json").exists()

    again = raydiance(tmp_path, *command)
    assert again.returncode == 0, again.stderr
    assert "attached to furniture-ingest-" in again.stderr
    assert json.loads((tmp_path / "outputs/pipeline/furniture/ingest.json").read_text()) == pointer


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to submit from."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RAYDIANCE_STORE", str(tmp_path / "store"))
    return tmp_path


@pytest.mark.slow
def test_a_failing_job_gives_its_reason_and_its_exit_status(address: str, here: Path) -> None:
    log = io.StringIO()
    command = Command("ingest", ("source=/no/such/folder", "tracking.kind=none"))
    assert submit(command, address, stream=log) == 1
    assert log.getvalue().splitlines()[-1].startswith("raydiance ingest: ")
    assert "/no/such/folder" in log.getvalue()
    assert not (here / "outputs/pipeline/furniture/ingest.json").exists()


def test_nothing_is_submitted_that_cannot_work(address: str, here: Path) -> None:
    with pytest.raises(ConfigError, match="sede = 1: no such setting"):
        submit(Command("ingest", ("sede=1",)), address)
    with pytest.raises(ConfigError, match="ingest has not run"):
        submit(Command("render", ("size=micro",)), address)


def test_no_cluster_is_said_in_one_line_within_ten_seconds() -> None:
    started = time.monotonic()
    with pytest.raises(
        ClusterError, match=r"^Ray at http://127.0.0.1:9 cannot be reached.*RAYDIANCE_ADDRESS$"
    ):
        submit(Command("ingest"), "http://127.0.0.1:9")
    assert time.monotonic() - started < 10


def test_the_same_code_and_settings_are_the_same_archive(tmp_path: Path) -> None:
    project = tmp_path / "project"
    (project / "jobs").mkdir(parents=True)
    (project / "jobs" / "work.py").write_text("print(1)\n")
    (project / "jobs" / "__pycache__").mkdir()
    (project / "jobs" / "__pycache__" / "work.pyc").write_text("x")
    (project / "outputs").mkdir()
    (project / "outputs" / "big.bin").write_text("x")
    first = package(project, "seed: 1\n", tmp_path / "a")
    second = package(project, "seed: 1\n", tmp_path / "b")
    assert first.name == second.name
    assert first.read_bytes() == second.read_bytes()
    assert zipfile.ZipFile(first).namelist() == ["jobs/work.py", "params.yaml"]
    assert package(project, "seed: 2\n", tmp_path / "c").name != first.name
    (project / "jobs" / "work.py").write_text("print(2)\n")
    assert package(project, "seed: 1\n", tmp_path / "d").name != first.name
