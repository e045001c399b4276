"""What somebody without a key gets from each port: every HTTP route and gRPC method that Ray and MLflow declare.

python -m tests.support.scan FOLDER HOST     starts the stack there, scans all ports of HOST, and ends it
"""

import importlib
import json
import os
import pkgutil
import re
import socket
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from pathlib import Path

import grpc
import httpx

__all__ = ["HEALTH", "open_ports", "unasked"]

# what may answer anybody: that it lives, how one proves who one is, a page without data
HEALTH = {
    "GET /",
    "GET /api/authentication_mode",
    "GET /api/gcs_healthz",
    "GET /api/healthz",
    "GET /api/local_raylet_healthz",
    "GET /favicon.ico",
    "GET /health",
    "GET /api/3.0/mlflow/server-info",
    "GET /ajax-api/3.0/mlflow/server-info",
}
REFUSED = {401, 403, 404, 405, 501}
CLOSED = {grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNIMPLEMENTED}
TIMEOUT_S = 5.0


def open_ports(host: str) -> list[int]:
    """All ports of an address of this machine that accept a connection."""
    found = []
    for port in range(1, 2**16):
        with socket.socket() as probe:
            if probe.connect_ex((host, port)) == 0:
                found.append(port)
    return found


def unasked(host: str, port: int) -> dict[str, str]:
    """What this port does for somebody without a key: the answer by the request. Refusals are left out."""
    return dict([*_http(host, port), *_grpc(host, port), *_postgres(host, port)])


def _http(host: str, port: int) -> Iterator[tuple[str, str]]:
    with httpx.Client(base_url=f"http://{host}:{port}", timeout=TIMEOUT_S, trust_env=False) as client:
        try:
            client.get("/")
        except httpx.HTTPError:
            return
        routes = sorted(_routes())
        by_habit = {method: _status(client, method, "/no-such-route") for method, _ in routes}
        if by_habit["GET"] == 200:
            yield "GET anything", client.get("/").text[:60]
            return
        for method, path in routes:
            status = _status(client, method, path)
            if status not in (*REFUSED, by_habit[method]):
                yield f"{method} {path}", str(status)


def _status(client: httpx.Client, method: str, path: str) -> int:
    """0: it does not answer in time."""
    try:
        with client.stream(method, path, json=None if method == "GET" else {}) as answer:
            return answer.status_code
    except httpx.TimeoutException:
        return 0


@cache
def _routes() -> set[tuple[str, str]]:
    """The HTTP routes that Ray's dashboard and agents and MLflow declare, and those that servers often have."""
    import ray.dashboard
    from mlflow.server.handlers import get_endpoints

    habits = (
        "/",
        "/metrics",
        "/health",
        "/healthz",
        "/ready",
        "/version",
        "/docs",
        "/openapi.json",
        "/raydiance",
    )
    found = {("GET", path) for path in habits}
    for source in Path(next(iter(ray.dashboard.__path__))).rglob("*.py"):
        for method, path in re.findall(r'\.(get|post|put|delete|patch)\(\s*"(/[^"]*)"', source.read_text()):
            found.add((method.upper(), _filled(path)))
    runtime_env = {
        ("POST", f"/{name}") for name in ("get_or_create_runtime_env", "delete_runtime_env_if_possible")
    }
    endpoints = {(method, _filled(path)) for path, _, methods in get_endpoints() for method in methods}
    return found | runtime_env | endpoints


def _filled(path: str) -> str:
    return re.sub(r"\{[^}]*\}|<[^>]*>", "1", path)


def _grpc(host: str, port: int) -> Iterator[tuple[str, str]]:
    options = [("grpc.enable_http_proxy", 0)]
    with grpc.insecure_channel(f"{host}:{port}", options=options) as channel:
        try:
            grpc.channel_ready_future(channel).result(timeout=1.5)
        except grpc.FutureTimeoutError:
            return
        calls = {name: channel.unary_unary(name).future(b"", timeout=TIMEOUT_S) for name in _methods()}
        by_habit = channel.unary_unary("/no.such.Service/Method").future(b"", timeout=TIMEOUT_S).code()
        for name, call in calls.items():
            if call.code() not in (*CLOSED, by_habit):
                yield name, call.code().name


@cache
def _methods() -> list[str]:
    """The gRPC methods that Ray declares."""
    import ray.core.generated as generated

    found = []
    for module in pkgutil.iter_modules(generated.__path__):
        if module.name.endswith("_pb2"):
            file = importlib.import_module(f"ray.core.generated.{module.name}").DESCRIPTOR
            for service in file.services_by_name.values():
                found += [f"/{service.full_name}/{method.name}" for method in service.methods]
    return sorted(found)


def _postgres(host: str, port: int) -> Iterator[tuple[str, str]]:
    request = (8).to_bytes(4, "big") + (80877103).to_bytes(4, "big")  # SSLRequest: only PostgreSQL knows it
    try:
        with socket.create_connection((host, port), TIMEOUT_S) as probe:
            probe.settimeout(1.0)
            probe.sendall(request)
            known = probe.recv(1) in (b"S", b"N")
    except OSError:
        return
    if known:
        import psycopg

        for user in ("raydiance", "postgres"):
            try:
                psycopg.connect(host=host, port=port, user=user, dbname="postgres", connect_timeout=5).close()
                yield f"connect as {user}", "let in"
            except psycopg.OperationalError:
                continue


def main() -> None:
    """Print, as JSON, what each open port did, and whether the password leads in."""
    from tests.support.listeners import listeners

    from raydiance.cluster import stack

    folder, host = Path(sys.argv[1]), sys.argv[2]
    tell = lambda text: print(text, file=sys.stderr)  # noqa: E731
    environment = stack.up(folder, host=host, s3=True, cpus=2, tell=tell)
    try:
        pids = [line.entry.pid for line in stack.lines(folder) if line.entry]
        names = {port: who for (_, port), who in listeners(pids).items()}
        ports = open_ports(host)
        _routes(), _methods()  # before the threads need them
        with ThreadPoolExecutor(4) as pool:
            answers = pool.map(partial(unasked, host), ports)
            said = {f"{port} {names.get(port, '')}".strip(): each for port, each in zip(ports, answers)}
        made = _with_password(environment)
    finally:
        stack.down(folder, tell=tell)
    print(json.dumps({"ports": said, "with the password": made}))


def _with_password(environment: Mapping[str, str]) -> str:
    """The name of an experiment that MLflow's client makes by the variables that `up` gives."""
    from mlflow import MlflowClient

    os.environ.update(environment)
    client = MlflowClient(environment["RAYDIANCE_TRACKING"])
    return str(client.get_experiment(client.create_experiment("scanned")).name)


if __name__ == "__main__":
    main()
