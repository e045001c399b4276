"""Jobs of a real cluster that fail, are lost, are stopped and attached to."""

import io
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from raydiance.cluster.following import Ending, follow, jobs_client, show_log
from raydiance.cluster.jobs import pause_before_retry, submit
from raydiance.cluster.known_jobs import KnownJob, find_job, known_jobs
from raydiance.cluster.runs import Command
from raydiance.config import RetrySpec, project_folder
from raydiance.errors import ClusterError, ConfigError

ROOT = project_folder()
# The first attempt fails as if memory was short, the second loses its supervisor as if its node was gone.
JOB = """
import os, signal, sys, time
from pathlib import Path
from types import SimpleNamespace
from typing import Any
import psutil, yaml
from raydiance.cluster.runs import main
from raydiance.tracking import Outcome

here = Path(os.environ["RAYDIANCE_STORE"]).parent

def work(experiment, run):
    with run.store.create("meshes", run.name) as draft:
        draft.path("a.txt").write_text("a")
    return Outcome(draft.artifact, {})

def save(*_):
    time.sleep(4)
    (here / "saved").touch()
    sys.exit(143)

if yaml.safe_load(Path("params.yaml").read_text())["seed"] == 2:
    signal.signal(signal.SIGTERM, save)
    print("ready", flush=True)
    time.sleep(300)
with (here / "attempts").open("a") as file:
    file.write(" ".join(sys.argv[1:]) + "\\n")
attempt = len((here / "attempts").read_text().splitlines())
if attempt == 1:
    sys.exit(137)
if attempt == 2:
    supervisor = next(p for p in psutil.Process().parents() if "JobSupervisor" in " ".join(p.cmdline()))
    supervisor.kill()
    sys.exit(1)
main("ingest", work)
"""


@pytest.fixture
def address(ray_here: str) -> str:
    """The dashboard of a Ray that lives longer than these tests."""
    return ray_here


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project whose only job misbehaves."""
    folder = tmp_path / "project"
    for room in ("configs", "platform"):
        shutil.copytree(ROOT / room, folder / room, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "jobs").mkdir()
    (folder / "jobs" / "ingest.py").write_text(JOB)
    (folder / "dvc.lock").write_text("stages:\n  a:\n    outs:\n    - {path: x.json, md5: abc}\n")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("RAYDIANCE_STORE", str(tmp_path / "store"))
    return folder


def raydiance(folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "raydiance.cli", *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT / "platform")} | variables,
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )


@pytest.mark.slow
def test_what_passes_is_tried_again_and_only_the_first_attempt_starts_over(
    address: str, project: Path, tmp_path: Path
) -> None:
    log = io.StringIO()
    overrides = ("size=micro", "tracking.kind=none", "cluster.retry.backoff_s=0.5", "seed=1")
    assert submit(Command("ingest", overrides, fresh=True), address, stream=log) == 0, log.getvalue()
    attempts = (tmp_path / "attempts").read_text().splitlines()
    assert ["--fresh" in attempt for attempt in attempts] == [True, False, False]
    assert "ended with exit status 137; it is run again in 0.5 s" in log.getvalue()
    assert "was lost; it is run again in 0.5 s" in log.getvalue()
    assert (project / "outputs/pipeline/furniture/ingest.json").exists()

    jobs = known_jobs(jobs_client(address))[:3]
    assert [job.status for job in jobs] == ["SUCCEEDED", "FAILED", "FAILED"]
    metadata = jobs[0].metadata
    assert (metadata["stage"], metadata["experiment"]) == ("ingest", "furniture")
    assert metadata["dvc.x.json"] == "abc"
    (project / "outputs/pipeline/furniture/ingest.json").unlink()
    attached = raydiance(project, "jobs", "attach", jobs[0].id, "--address", address)
    assert attached.returncode == 0, attached.stderr
    assert (project / "outputs/pipeline/furniture/ingest.json").exists(), "attaching fetches the results"


@pytest.mark.slow
def test_a_stopped_job_has_time_for_its_last_words(address: str, project: Path, tmp_path: Path) -> None:
    command = Command("ingest", ("size=micro", "tracking.kind=none", "seed=2"))
    assert submit(command, address, wait=False, stream=io.StringIO()) == 0
    client = jobs_client(address)
    newest = known_jobs(client)[0].id
    deadline, log = time.monotonic() + 120, io.StringIO()
    while "ready" not in log.getvalue():
        assert time.monotonic() < deadline
        time.sleep(0.2)
        show_log(client, newest, len(log.getvalue()), log)
    assert "ready" in raydiance(project, "jobs", "logs", newest, "--address", address).stdout
    assert newest in raydiance(project, "jobs", "list", "--address", address).stdout
    stopped = raydiance(project, "jobs", "stop", newest[:-1], "--address", address)
    assert stopped.stdout == f"{newest}: stopped\n", stopped.stderr
    assert (tmp_path / "saved").exists()
    assert follow(jobs_client(address), newest, stream=io.StringIO()) == Ending(130)
    assert "stopped" in raydiance(project, "jobs", "show", newest, "--address", address).stdout


def test_a_job_that_nobody_knows_is_said_in_one_line(address: str, project: Path) -> None:
    done = raydiance(project, "jobs", "show", "nothing", "--address", address)
    assert done.returncode == 2
    assert done.stderr.startswith("raydiance: nothing: the cluster knows no such job")
    with pytest.raises(ClusterError, match="no longer knows it"):
        follow(jobs_client(address), "nothing", stream=io.StringIO())


def test_a_token_that_is_no_longer_good_is_said_in_one_line(address: str, tmp_path: Path) -> None:
    refused = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64}
    done = raydiance(tmp_path, "jobs", "list", "--address", address, **refused)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"raydiance: Ray Jobs at {address} does not take this token")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("code", [143, -15])
def test_a_job_that_was_told_to_end_but_not_by_ray_lost_its_node(code: int) -> None:
    from ray.job_submission import JobStatus

    info = SimpleNamespace(status=JobStatus.FAILED, driver_exit_code=code, message="", error_type=None)
    client: Any = SimpleNamespace(get_job_info=lambda job_id: info, get_job_logs=lambda job_id: "")
    assert follow(client, "job", stream=io.StringIO()) == Ending(143, lost=True)


def test_pauses_double_and_each_kind_of_failure_has_its_own_budget() -> None:
    retry = RetrySpec(exit_codes=(75,), times=2, node_losses=3, backoff_s=10)
    failed, lost = Ending(75), Ending(1, lost=True)
    assert pause_before_retry(retry, [failed]) == 10
    assert pause_before_retry(retry, [failed, failed]) == 20
    assert pause_before_retry(retry, [failed, failed, failed]) is None
    assert pause_before_retry(retry, [failed, failed, lost]) == 10
    assert pause_before_retry(retry, [lost, failed, lost, lost]) == 40
    assert pause_before_retry(retry, [lost] * 4) is None
    for final in (Ending(0), Ending(1), Ending(130)):
        assert pause_before_retry(retry, [final]) is None


def test_the_beginning_of_an_id_is_enough_if_it_is_one_job() -> None:
    jobs = [KnownJob(name, "RUNNING", None, None, None, "", {}) for name in ("a-1", "a-12", "b-3")]
    assert find_job(jobs, "b").id == "b-3"
    assert find_job(jobs, "a-1").id == "a-1"
    with pytest.raises(ConfigError, match=r"a: more than one job begins so; there is a-1, a-12"):
        find_job(jobs, "a")
    with pytest.raises(ConfigError, match="no such job; there is none at all"):
        find_job([], json.dumps("x"))
