"""What every test shares: real servers on free ports of the loopback, each ended by its process id.

Servers of the system that are absent are named, and counted where they must not be absent.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import pytest
from xdist.scheduler import LoadScopeScheduling
from xdist.workermanage import WorkerController

from raydiance.cluster.ports import free_port as free_port
from raydiance.cluster.session import session
from raydiance.config import ClusterSpec

ROOT = Path(__file__).resolve().parents[1]
BINARIES = {
    "chromium": ("chromium", "chromium-browser", "google-chrome"),
    "ip": ("ip",),
    "radosgw": ("radosgw",),
    "redis": ("redis-server",),
    "postgres": ("/usr/lib/postgresql/15/bin/postgres", "/usr/lib/postgresql/16/bin/postgres", "postgres"),
}

# the files whose tests start a Ray
WITH_RAY = {
    "test_digits.py",
    "test_end_to_end.py",
    "test_faults_of_ray.py",
    "test_jobs.py",
    "test_known_jobs.py",
    "test_listeners.py",
    "test_ray.py",
    "test_rollover.py",
    "test_server.py",
    "test_stack.py",
    "test_trainings.py",
    "test_tune.py",
}

# becomes the command, and ends when the tests do, even if they are killed (Linux's PR_SET_PDEATHSIG)
TIED = """
import ctypes, os, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, 15)
os.execvp(sys.argv[1], sys.argv[1:])
"""


class OneRay(LoadScopeScheduling):
    """With several processes (pytest -n), the tests that start a Ray stay in one of them, because Rays of one
    machine get into each other's way, and are the first that are given out; of the others each file stays in one.
    """

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.split("::")[0]
        return "ray" if Path(file).name in WITH_RAY else file

    def _assign_work_unit(self, node: WorkerController) -> None:
        if "ray" in self.workqueue:
            self.workqueue.move_to_end("ray", last=False)
        super()._assign_work_unit(node)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> OneRay:
    return OneRay(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Those who share a Ray come last. Skip, by name, tests whose server is absent.

    RAYDIANCE_REQUIRE_SERVERS=1 says that it must be there.
    """
    items.sort(key=lambda item: "ray_here" in getattr(item, "fixturenames", ()))
    required = os.environ.get("RAYDIANCE_REQUIRE_SERVERS") == "1"
    for item in items:
        for marker in item.iter_markers("needs"):
            name = marker.args[0]
            if not required and find_binary(name) is None:
                item.add_marker(pytest.mark.skip(reason=f"needs {name}, which is not installed"))


def find_binary(name: str) -> Path | None:
    """The first program there is of those that make up this system server."""
    return next((Path(found) for binary in BINARIES[name] if (found := shutil.which(binary))), None)


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout."""
    return ROOT


@pytest.fixture(scope="module")
def ray_here() -> Iterator[str]:
    """A Ray of this machine for the tests of a file that need no other, by its dashboard's address.

    Its workers find what tests give them. One for all files would be faster; the rooms of trainings whose workers
    were killed, which have kept them apart, are given back now, but one Ray has not been tried since.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT / "tests/cluster"), *sys.path]))
        with session(ClusterSpec(address="local"), dashboard=True):
            from ray._private.worker import get_dashboard_url

            yield f"http://{get_dashboard_url()}"


@dataclass(frozen=True)
class S3Server:
    """A running S3 server; a bucket is a folder below `folder`."""

    endpoint: str
    folder: Path
    access_key: str
    secret_key: str

    def environment(self) -> dict[str, str]:
        """The variables by which every client finds the server."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def bucket(self, name: str) -> str:
        """Make a bucket where it is missing, and give its s3:// URL.

        The server is asked to: a folder made behind its back may not be seen for minutes.
        """
        client = boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            region_name="us-east-1",
        )
        if name not in {bucket["Name"] for bucket in client.list_buckets()["Buckets"]}:
            client.create_bucket(Bucket=name)
        return f"s3://{name}"


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """rclone's S3 server on a folder of its own."""
    with serve_s3(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture(scope="session")
def s3_on() -> Callable[..., AbstractContextManager[S3Server]]:
    """Starts another S3 server: `s3_on(folder, *options)`."""
    return serve_s3


@contextmanager
def serve_s3(folder: Path, *options: str) -> Iterator[S3Server]:
    """An S3 server on this folder, with its log beside it."""
    port = free_port()
    server = S3Server(f"http://127.0.0.1:{port}", folder, "accesskey", "secretkey12")
    command = [
        *(str(Path(sys.executable).with_name("rclone")), "serve", "s3", str(folder)),
        *("--addr", f"127.0.0.1:{port}", "--auth-key", f"{server.access_key},{server.secret_key}"),
        *("--config", os.devnull, *options),
    ]
    with running(command, folder.with_name(f"{folder.name}.log"), lambda: accepts(port)):
        yield server


@pytest.fixture(scope="session")
def mlflow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of an MLflow server with a SQLite database and a folder for files."""
    folder = tmp_path_factory.mktemp("mlflow")
    with serve_mlflow(f"sqlite:///{folder}/mlflow.db", folder) as url:
        yield url


@pytest.fixture(scope="session")
def mlflow_on() -> Callable[..., AbstractContextManager[str]]:
    """Starts another MLflow server: `mlflow_on(database, folder, port)`."""
    return serve_mlflow


@contextmanager
def serve_mlflow(
    database: str, folder: Path, port: int | None = None, s3: S3Server | None = None
) -> Iterator[str]:
    """An MLflow server on this database, with its log in the folder, and its files, if they are not on S3."""
    port = port or free_port()
    url = f"http://127.0.0.1:{port}"
    command = [
        *(
            sys.executable,
            "-m",
            "mlflow",
            "server",
            "--host",
            "127.0.0.1",
            "--port",
            str(port),
            "--workers",
            "1",
        ),
        *("--backend-store-uri", database),
        *("--artifacts-destination", s3.bucket("mlflow") if s3 else str(folder / "artifacts")),
    ]
    environment = {
        **(s3.environment() if s3 else {}),
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    with running(command, folder / "server.log", lambda: healthy(f"{url}/health"), environment=environment):
        yield url


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """The URL of an empty PostgreSQL database; mark the test needs("postgres")."""
    binary = find_binary("postgres")
    assert binary is not None
    folder = Path(tempfile.mkdtemp(prefix="raydiance-postgres-"))
    as_user: list[str] = []
    if os.geteuid() == 0:  # PostgreSQL refuses to run as root
        shutil.chown(folder, "postgres")
        as_user = ["/usr/sbin/runuser", "-u", "postgres", "--"]
    data, port = str(folder / "data"), free_port()
    initialise = [*as_user, str(binary.with_name("initdb")), "--auth=trust", "--username=mlflow", "-D", data]
    subprocess.run(initialise, check=True, capture_output=True, cwd=folder)
    command = [
        *(*as_user, str(binary), "-D", data, "-p", str(port)),
        *("-c", "listen_addresses=127.0.0.1", "-c", f"unix_socket_directories={folder}"),
    ]
    try:
        with running(command, folder.with_suffix(".log"), lambda: accepts(port)):
            yield f"postgresql://mlflow@127.0.0.1:{port}/postgres"
    finally:
        shutil.rmtree(folder)
        folder.with_suffix(".log").unlink()


@contextmanager
def running(
    command: list[str],
    log: Path,
    ready: Callable[[], bool],
    *,
    timeout_s: float = 180.0,
    environment: dict[str, str] | None = None,
) -> Iterator[int]:
    """Start a server, wait until it is ready, give its process id, and end its whole session afterwards."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-c", TIED, *command],
            stdout=output,
            stderr=subprocess.STDOUT,
            env=os.environ | (environment or {}),
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + timeout_s
        while not ready():
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{' '.join(command)} did not start:\n{log.read_text()[-4000:]}")
            time.sleep(0.1)
        yield process.pid
    finally:
        end(process)


def end(process: "subprocess.Popen[bytes]") -> None:
    """Ask the process and what it started to go; after ten seconds end them."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def accepts(port: int) -> bool:
    """Whether something accepts connections on the port."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def healthy(url: str) -> bool:
    """Whether the address answers 200."""
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False
