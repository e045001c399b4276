"""The local stack: a Ray head, MLflow, and when asked PostgreSQL under it and an S3 server, on this machine.

Everything lies in one folder: keys and ports (stack.json, for its owner's eyes), pid files (run/), logs, data.
"""

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from raydiance.cluster import programs
from raydiance.cluster.ports import free_port, why_taken
from raydiance.cluster.programs import Keys
from raydiance.cluster.services import (
    Service,
    Started,
    is_running,
    launch,
    started,
    stop,
    wait_until_ready,
)
from raydiance.errors import ClusterError, ConfigError
from raydiance.spec import from_plain, spec, to_plain
from raydiance.storage import write_json

__all__ = ["FOLDER", "Line", "Stack", "down", "lines", "open_stack", "up"]

FOLDER = Path("outputs/stack")
PREFERRED = {"ray": 6379, "dashboard": 8265, "mlflow": 5000, "s3": 9000, "postgres": 5432}
OTHERS = ("ray_client", "ray_agent", "ray_agent_grpc", "ray_runtime_env", "ray_metrics")


@spec
class Stack:
    """What belongs to the stack and how it is reached; kept in its folder from one start to the next."""

    host: str = "127.0.0.1"
    postgres: bool = False
    s3: bool = False
    cpus: int | None = None
    ports: Mapping[str, int]
    keys: Keys


@dataclass(frozen=True)
class Line:
    """What `status` says of one server."""

    name: str
    state: str
    entry: Started | None


def up(
    folder: Path = FOLDER,
    *,
    host: str = "127.0.0.1",
    postgres: bool = False,
    s3: bool = False,
    cpus: int | None = None,
    tell: Callable[[str], None] = print,
) -> Mapping[str, str]:
    """Start what does not run yet, wait until all of it answers: the environment that clients need.

    Raises ConfigError for an address beyond loopback without a password, ClusterError if a server does not
    start; then what this call has started is ended again.
    """
    folder = folder.absolute()
    _check_host(host)
    folder.mkdir(parents=True, exist_ok=True)
    known, running = _read(folder), _running(folder)
    stack = Stack(
        host=host,
        postgres=postgres,
        s3=s3,
        cpus=cpus,
        ports=_ports(known, keep=bool(running)),
        keys=known.keys if known else Keys.new(),
    )
    if known and running and (known.host, known.cpus) != (host, cpus):
        raise ConfigError(f"{folder}: a stack with other settings runs; end it first with `raydiance down`")
    _write(folder, stack)
    for name, entry in started(folder).items():
        if name not in running:
            stop(entry, folder)  # one that was killed may have left children, which hold its port
    begun: list[tuple[Service, Started]] = []
    try:
        for wave in _waves(stack, folder):
            fresh = [(service, launch(service, folder)) for service in wave if service.name not in running]
            begun += fresh
            for service, entry in fresh:
                wait_until_ready(service, entry)
                tell(f"{service.name:<9} {service.url}")
    except BaseException:
        for _, entry in reversed(begun):
            stop(entry, folder)
        raise
    environment = clients_environment(stack, folder)
    lines_ = "".join(f"export {name}={value}\n" for name, value in environment.items())
    _write_private(folder / "env", lines_)
    return environment


def down(folder: Path = FOLDER, tell: Callable[[str], None] = print) -> None:
    """End all servers, the last one started first; data, logs and keys stay."""
    folder = folder.absolute()
    for entry in reversed(started(folder).values()):
        was = "ended" if is_running(entry) else "had ended before"
        stop(entry, folder)
        tell(f"{entry.name:<9} {was}")
    shutil.rmtree(_ray_folder(folder), ignore_errors=True)


def lines(folder: Path = FOLDER) -> list[Line]:
    """The servers of the stack in the order in which they start, and how each of them is."""
    folder = folder.absolute()
    stack, entries = open_stack(folder), started(folder)
    found = []
    for service in (service for wave in _waves(stack, folder) for service in wave):
        entry = entries.get(service.name)
        if entry is None:
            state = "not started"
        elif not is_running(entry):
            state = "ended unasked"
        else:
            state = "running" if service.ready() else "does not answer"
        found.append(Line(service.name, state, entry))
    return found


def open_stack(folder: Path = FOLDER) -> Stack:
    """The stack of this folder. Raises ClusterError if there has never been one."""
    stack = _read(folder.absolute())
    if stack is None:
        raise ClusterError(f"{folder}: no stack was ever started here; `raydiance up` starts one")
    return stack


def clients_environment(stack: Stack, folder: Path) -> dict[str, str]:
    """The variables by which every verb, DVC, Ray, MLflow and boto3 find the stack."""
    return {
        "RAYDIANCE_ADDRESS": f"http://{stack.host}:{stack.ports['dashboard']}",
        "RAYDIANCE_TRACKING": f"http://{stack.host}:{stack.ports['mlflow']}",
        "RAYDIANCE_STORE": f"s3://{programs.BUCKET}/store" if stack.s3 else str(folder / "store"),
        "RAY_ADDRESS": f"{stack.host}:{stack.ports['ray']}",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(folder / "token"),
        **programs.ray_stays_here(stack.host),
        **(programs.s3_environment(stack.host, stack.ports, stack.keys) if stack.s3 else {}),
        **programs.mlflow_login(stack.host),
    }


def _waves(stack: Stack, folder: Path) -> Sequence[Sequence[Service]]:
    """The servers, each after those it needs."""
    first: list[Service] = []
    if stack.postgres:
        first.append(programs.postgres(stack.ports, stack.keys, folder))
    if stack.s3:
        first.append(programs.s3(stack.host, stack.ports, stack.keys, folder))
    database = (
        programs.postgres_url(stack.ports, stack.keys)
        if stack.postgres
        else f"sqlite:///{folder / 'mlflow.db'}"
    )
    # Workers get the keys of the store from Ray's own environment: a submitted job carries no secrets.
    keys = programs.s3_environment(stack.host, stack.ports, stack.keys) if stack.s3 else {}
    return [
        first,
        [
            programs.ray_head(
                stack.host,
                stack.ports,
                folder / "token",
                _ray_folder(folder),
                stack.cpus,
                keys | programs.mlflow_login(stack.host),
            ),
            programs.mlflow(stack.host, stack.ports, database, folder, keys),
        ],
    ]


def _check_host(host: str) -> None:
    if host in programs.LOOPBACK:
        return
    if not os.environ.get("MLFLOW_AUTH_ADMIN_PASSWORD"):
        raise ConfigError(
            f"--host {host}: MLflow would be open to everybody who reaches this machine; set "
            "MLFLOW_AUTH_ADMIN_PASSWORD, or stay on 127.0.0.1"
        )
    programs.check_mlflow_passwords(host)
    if host in ("0.0.0.0", "::"):
        raise ConfigError(f"--host {host}: give the one address under which other machines know this one")


def _ports(known: Stack | None, *, keep: bool) -> dict[str, int]:
    """A port for each server: as before while one of them runs, else the usual one where it is free."""
    if known and keep:
        return dict(known.ports)
    wanted = dict(known.ports) if known else PREFERRED
    ports: dict[str, int] = {}
    for name in (*PREFERRED, *OTHERS):
        usual = wanted.get(name, 0)
        ports[name] = usual if usual and not why_taken(usual) else free_port(taken=ports.values())
    return ports


def _running(folder: Path) -> set[str]:
    return {name for name, entry in started(folder).items() if is_running(entry)}


def _ray_folder(folder: Path) -> Path:
    """Ray's own files: the path is short, because its sockets allow no more than 107 characters."""
    return Path("/tmp") / f"raydiance-{hashlib.sha256(str(folder).encode()).hexdigest()[:12]}"


def _read(folder: Path) -> Stack | None:
    path = folder / "stack.json"
    try:
        return from_plain(Stack, json.loads(path.read_bytes()), str(path))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise ClusterError(f"{error}; remove {path} to start anew") from error


def _write(folder: Path, stack: Stack) -> None:
    path = folder / "stack.json"
    _write_private(path, "")
    write_json(path, to_plain(stack))
    path.chmod(0o600)
    if not (folder / "token").exists():
        _write_private(folder / "token", secrets.token_hex(32))


def _write_private(path: Path, text: str) -> None:
    path.touch(mode=0o600)
    path.write_text(text, encoding="utf-8")
