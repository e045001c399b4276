"""A Ray to work on: one of our own for the length of a run, or a cluster that is there already."""

import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from urllib.parse import urlsplit

from raydiance.config.platform import ClusterSpec
from raydiance.errors import ClusterError

__all__ = ["LOOPBACK_ONLY", "address_of", "probe", "resources", "session", "settings"]

OBJECT_STORE_BYTES = 512 * 2**20  # what we pass is small: artifacts go through the store, not through Ray
PROBE_TIMEOUT_S = 5.0
START_ATTEMPTS = 3

# What Ray reads from the environment: no note about a future default, no reports to anyone, workers that stay
# in the folder we work in (addresses may be relative to it) and have as good a claim to a core as we have. What
# they report is asked for every half second: a second report waits until the first one has been heard.
_SETTINGS = {
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_worker_niceness": "0",
}

# For a Ray that listens on 127.0.0.1 only, and for all who join it; the workers of a training meet there, too. It
# is Ray's setting for systems whose firewalls ask: without it, Ray puts the machine's own address in the place
# of 127.0.0.1 wherever that is given, and listens on all.
LOOPBACK_ONLY = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "GLOO_SOCKET_IFNAME": "lo"}


def address_of(spec: ClusterSpec) -> str:
    """Where Ray is: the spec's word, else RAYDIANCE_ADDRESS, else "local"."""
    return spec.address or os.environ.get("RAYDIANCE_ADDRESS") or "local"


def probe(address: str, default_port: int) -> None:
    """Raise ClusterError, in one line and within seconds, if nothing listens at an address."""
    parts = urlsplit(address if "://" in address else f"//{address}")
    host = parts.hostname or address
    try:
        port = parts.port or default_port
        socket.create_connection((host, port), PROBE_TIMEOUT_S).close()
    except (OSError, ValueError) as error:
        raise ClusterError(
            f"Ray at {address} cannot be reached ({error}); start it, or correct RAYDIANCE_ADDRESS"
        ) from error


def settings() -> None:
    """Give Ray its settings, where the environment does not say otherwise; before it is imported."""
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)


@contextmanager
def session(spec: ClusterSpec, *, dashboard: bool = False) -> Iterator[None]:
    """Ray is connected while the block runs; one that is connected already is used and left as it is.

    A Ray of our own has this machine's cores and asks for a token, as Ray does by itself; its dashboard is
    started only where the State API is needed. Raises ClusterError within 10 s if an address does not answer.
    """
    settings()
    import ray

    if ray.is_initialized():
        yield
        return
    address = _drivers_address(address_of(spec))
    if address not in ("local", "auto"):
        probe(address, 6379)
    with _on_loopback() if address == "local" else nullcontext():
        sigterm = signal.getsignal(signal.SIGTERM)
        try:
            if address == "local":
                _start_local(dashboard)
            else:
                ray.init(address=address, logging_level=logging.WARNING)
        except Exception as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise ClusterError(f"Ray at {address}: {reason}") from error
        if callable(sigterm) and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, sigterm)  # Ray has put its own there, with another exit status
        try:
            yield
        finally:
            ray.shutdown()


def _drivers_address(address: str) -> str:
    """Where a driver of this machine joins the cluster whose dashboard has an http:// address."""
    if not address.startswith(("http://", "https://")):
        return address
    if joined := os.environ.get("RAY_ADDRESS"):
        return joined
    raise ClusterError(
        f"Ray at {address}: jobs are submitted there; for work on it from this machine, too, set RAY_ADDRESS to "
        "host:port of its head, or give cluster.address=local"
    )


def resources(spec: ClusterSpec) -> dict[str, float]:
    """What the Ray of this spec has to give: CPU, GPU, memory (bytes)."""
    with session(spec):
        import ray

        return dict(ray.cluster_resources())  # type: ignore[no-untyped-call]


@contextmanager
def _on_loopback() -> Iterator[None]:
    """A Ray that is started in the block listens on loopback only."""
    from ray._private import ray_constants

    before = {name: os.environ.get(name) for name in LOOPBACK_ONLY}
    open_to_nodes = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    os.environ |= LOOPBACK_ONLY
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = open_to_nodes
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _start_local(dashboard: bool) -> None:
    """Start a Ray here; Ray gives it 30 s for that, which a busy machine may need more than once."""
    import ray

    # Ray warns that it asks for a token, on each start; that is as it should be.
    logging.getLogger("ray._private.authentication.authentication_token_setup").setLevel(logging.ERROR)

    # Nobody takes this machine away with a warning, so nobody needs to listen for one.
    os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
    for attempt in range(START_ATTEMPTS):
        try:
            ray.init(
                address="local",
                num_cpus=max(
                    os.cpu_count() or 1, 2
                ),  # a driver and one worker must fit on a single core, too
                include_dashboard=dashboard,
                object_store_memory=OBJECT_STORE_BYTES,
                logging_level=logging.WARNING,
            )
            return
        except Exception as error:
            if "timed out" not in str(error) or attempt == START_ATTEMPTS - 1:
                raise
            ray.shutdown()
