"""What each load test runs on: an endpoint of its own on Ray Serve, and the processes that it is made of."""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import ray
from benchmarks.load.arrivals import Body, Load

from raydiance.config import ClusterSpec, ServeSpec
from raydiance.storage import ArtifactRef, Store

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Serve declares its models in a way that pydantic has deprecated
    from ray import serve as ray_serve

    from raydiance.serving import running
    from raydiance.serving.gateway import APPLICATION

__all__ = ["CAPACITY_S", "CROWD", "SPEC", "Case", "cpu_s", "pids", "processes", "rss_mb", "running_replicas"]

SPEC = ServeSpec(port=0, slots=8, max_requests=100_000, cpus_per_replica=0.5, follow_s=0.5)
CROWD, CAPACITY_S = 16, 8.0
ACTORS = {
    "replica": "SERVE_REPLICA::raydiance#",
    "gateway": "SERVE_REPLICA::gateway#",
    "proxy": "SERVE_PROXY_ACTOR",
    "controller": "SERVE_CONTROLLER_ACTOR",
}


@dataclass(frozen=True)
class Case:
    """What is served and for how long it is asked; `meant` is what the alias means."""

    store: Store
    refs: tuple[ArtifactRef, ...]
    plan: str
    seconds: float = 20.0
    replicas: int = 1
    updates: int = 4
    count: int | None = None
    rate: float | None = None
    ray: bool = True
    meant: list[ArtifactRef] = field(default_factory=list)
    url: str = ""
    until: float = float("inf")
    measured: list[tuple[float, float]] = field(default_factory=list)

    def load(self, url: str, body: Body) -> Load:
        """Requests to an endpoint for as long as there is time."""
        return Load(url, body, self.until)

    async def capacity(self, load: Load) -> tuple[float, float]:
        """(seconds of one request alone, requests per second at most), measured once for an endpoint."""
        if not self.measured:
            self.measured.append(await load.capacity(CAPACITY_S, CROWD))
        return self.measured[0]

    @contextmanager
    def endpoint(self, **settings: Any) -> Iterator[str]:
        """The address of an endpoint that serves the first bundle until the alias means another; with `url`, of
        that one, which several tests share.
        """
        if self.url:
            yield self.url
            return
        self.meant[:] = self.refs[:1]
        spec = replace(SPEC, bundle="load@champion", replicas=self.replicas)
        with running(
            replace(spec, **settings),
            self.store,
            resolve=lambda name, alias: self.meant[0] if alias == "champion" else self.refs[-1],
            cluster=ClusterSpec(address="local"),
            keys=[],
        ) as up:
            yield up.url


def pids(what: str) -> list[int]:
    """The processes of Serve's actors of a kind that run now."""
    found = []
    for actor in ray.util.list_named_actors(all_namespaces=True):
        if actor["name"].startswith(ACTORS[what]):
            with suppress(Exception):  # one that is going away
                handle = ray.get_actor(actor["name"], namespace="serve")
                found.append(int(ray.get(handle.__ray_call__.remote(lambda self: os.getpid()), timeout=5)))
    return found


def processes() -> dict[str, list[int]]:
    """Those of the endpoint by what they are, Ray's raylet of this machine and ourselves."""
    raylet = ray._private.worker._global_node.all_processes["raylet"][0].process.pid
    return {what: pids(what) for what in ACTORS} | {"raylet": [raylet], "generator": [os.getpid()]}


def running_replicas() -> int:
    """How many replicas have loaded their bundle and answer."""
    states = ray_serve.status().applications[APPLICATION].deployments["replica"].replica_states
    return sum(count for state, count in states.items() if str(state).endswith("RUNNING"))


def rss_mb(pid: int) -> float:
    """Memory of a process that is its own or shared."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def cpu_s(pid: int) -> float:
    """Processor time of a process so far, all its threads, s."""
    after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(after_name[11]) + int(after_name[12])) / os.sysconf("SC_CLK_TCK")
