"""The local stack as a person starts it: real servers, real keys, and nothing left behind."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import boto3
import httpx
import psutil
import pytest
from botocore import UNSIGNED
from botocore.config import Config
from botocore.exceptions import ClientError
from tests.conftest import find_binary
from tests.support.listeners import beyond_loopback, listeners

from raydiance.cluster.services import Service, is_running, launch, started, stop, wait_until_ready
from raydiance.config import project_folder
from raydiance.errors import ClusterError

ROOT = project_folder()


def raydiance(folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    known = {
        name: value for name, value in os.environ.items() if not name.startswith(("RAY", "AWS", "MLFLOW"))
    }
    return subprocess.run(
        [sys.executable, "-m", "raydiance.cli", *arguments],
        cwd=folder,
        env=known | {"PYTHONPATH": str(ROOT / "platform"), "OMP_NUM_THREADS": "1"} | variables,
        capture_output=True,
        text=True,
        check=False,
        timeout=400,
    )


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that PostgreSQL's user may pass through."""
    path = Path(tempfile.mkdtemp(prefix="raydiance-stack-"))
    path.chmod(0o711)
    yield path
    raydiance(path, "down", "--folder", "stack")
    shutil.rmtree(path)


def of_the_stack(folder: Path) -> list[str]:
    """Command lines of processes that were started by it: all of them have its folder or its keys."""
    found = []
    for process in psutil.process_iter():
        try:
            seen = " ".join([*process.environ().values(), process.cwd()])
            if str(folder) in seen and process.pid != os.getpid():
                found.append(" ".join(process.cmdline()))
        except (psutil.AccessDenied, psutil.NoSuchProcess):
            continue
    return found


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_stage_runs_on_the_stack_and_the_stack_ends_without_a_trace(folder: Path) -> None:
    options = ["--folder", "stack", "--s3", *(["--postgres"] if find_binary("postgres") else [])]
    begun = raydiance(folder, "up", *options)
    assert begun.returncode == 0, begun.stderr
    variables = dict(line.removeprefix("export ").split("=", 1) for line in begun.stdout.splitlines())
    assert (folder / "stack" / "env").read_text() == begun.stdout
    assert (folder / "stack" / "env").stat().st_mode & 0o077 == 0

    walked = raydiance(folder, "run", "ingest", "size=micro", **variables)
    assert walked.returncode == 0, walked.stderr
    pointer = json.loads((folder / "outputs/pipeline/furniture/ingest.json").read_text())
    assert pointer["store"] == "s3://raydiance/store"
    assert (folder / "stack/s3/raydiance/store" / pointer["key"] / "manifest.json").exists()
    answer = httpx.get(
        f"{variables['RAYDIANCE_TRACKING']}/api/2.0/mlflow/runs/get",
        params={"run_id": pointer["run_id"]},
        timeout=30,
    )
    tags = {tag["key"]: tag["value"] for tag in answer.json()["run"]["data"]["tags"]}
    assert tags["ray.job"].startswith("furniture-ingest-")
    nobody_gets_in_without_a_key(variables)

    entries = started(folder / "stack")
    found = listeners([entry.pid for entry in entries.values()])
    assert len(found) > 10 and beyond_loopback(found) == {}
    joins = "from raydiance.cluster.session import *; from raydiance.config import ClusterSpec; "
    joined = subprocess.run(
        [sys.executable, "-c", joins + "print(resources(ClusterSpec())['CPU'])"],
        env=os.environ | {"PYTHONPATH": str(ROOT / "platform")} | variables,
        capture_output=True,
        text=True,
        check=False,
    )
    assert float(joined.stdout) >= 1, joined.stderr
    os.kill(entries["mlflow"].pid, signal.SIGKILL)
    told = raydiance(folder, "status", "--folder", "stack")
    assert told.returncode == 1
    states = {line.split()[0]: line for line in told.stdout.splitlines()}
    assert "running" in states["ray"]
    assert "ended unasked" in states["mlflow"]
    assert raydiance(folder, "up", *options).stdout == begun.stdout, "the same places and keys again"
    again = started(folder / "stack")
    assert again["ray"] == entries["ray"], "what runs is left alone"
    assert raydiance(folder, "status", "--folder", "stack").returncode == 0

    ended = raydiance(folder, "down", "--folder", "stack")
    assert ended.returncode == 0, ended.stderr
    assert of_the_stack(folder / "stack") == []
    for port in json.loads((folder / "stack/stack.json").read_text())["ports"].values():
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", port)) != 0, port


def nobody_gets_in_without_a_key(variables: dict[str, str]) -> None:
    assert httpx.get(f"{variables['RAYDIANCE_ADDRESS']}/api/jobs/", timeout=30).status_code == 401
    anonymous = boto3.client(
        "s3",
        endpoint_url=variables["AWS_ENDPOINT_URL"],
        region_name="us-east-1",
        config=Config(signature_version=UNSIGNED),
    )
    with pytest.raises(ClientError):
        anonymous.list_objects_v2(Bucket="raydiance")


def test_nothing_listens_beyond_loopback_without_a_password(tmp_path: Path) -> None:
    refused = raydiance(tmp_path, "up", "--host", "0.0.0.0")
    assert refused.returncode == 2
    assert "MLFLOW_AUTH_ADMIN_PASSWORD" in refused.stderr
    assert list(tmp_path.iterdir()) == []


def test_no_stack_is_said_in_one_line(tmp_path: Path) -> None:
    told = raydiance(tmp_path, "status")
    assert told.returncode == 1
    assert told.stderr.endswith("stack: no stack was ever started here; `raydiance up` starts one\n")


def test_a_server_that_does_not_start_gives_its_last_line(tmp_path: Path) -> None:
    command = (sys.executable, "-c", "import sys; sys.exit('no such option')")
    service = Service("broken", command, "nowhere", lambda: False)
    with pytest.raises(
        ClusterError, match=r"broken did not start \(no such option\); its log is .*broken.log"
    ):
        wait_until_ready(service, launch(service, tmp_path))


def test_a_stopped_server_takes_its_children_along_and_a_recycled_number_is_not_touched(
    tmp_path: Path,
) -> None:
    code = (
        "import subprocess, time; subprocess.Popen(['sleep', '600'], start_new_session=True); time.sleep(600)"
    )
    service = Service("parent", (sys.executable, "-c", code), "nowhere", lambda: True)
    entry = launch(service, tmp_path)
    try:
        family: list[psutil.Process] = []
        while not family:
            family = psutil.Process(entry.pid).children()
    finally:
        stop(entry, tmp_path)
    assert not is_running(entry)
    assert not family[0].is_running()
    assert started(tmp_path) == {}
