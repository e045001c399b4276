"""The endpoint on Ray Serve: replicas that hold the bundle behind a gateway that speaks HTTP."""

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import ray
from ray import serve as ray_serve
from ray.exceptions import RayError
from ray.serve import Application
from ray.serve.exceptions import RayServeException

from raydiance.cluster.ports import free_port, why_taken
from raydiance.cluster.session import session
from raydiance.config.platform import ClusterSpec, ServeSpec
from raydiance.errors import ClusterError, ConfigError, RaydianceError
from raydiance.generation import load_bundle
from raydiance.serving.bundles import Catalogue, Resolve, catalogue_of, find_bundle
from raydiance.serving.client import Client
from raydiance.serving.ending import wait_for_the_end
from raydiance.serving.gateway import APPLICATION, Gateway
from raydiance.serving.keys import KEYS_VARIABLE, ApiKey, keys_for
from raydiance.serving.limits import environment
from raydiance.serving.places import most_of
from raydiance.serving.replicas import Replica
from raydiance.storage import ArtifactRef, Store

__all__ = ["Endpoint", "bind", "running", "serve"]

GATEWAY = "gateway"  # apart from the replicas, so that it goes on while they change
PROXY_GRACE_S = 5.0  # the gateway answers a timeout before Serve's proxy would cut the connection
GATEWAY_REQUESTS = 1000
GATEWAY_CPUS = 0.1
QUIET = {"log_level": "WARNING", "enable_access_log": False}
SURGE_PERCENT = (
    25  # rounded up: at least one new replica is up before an old one goes; Serve's own is the reverse
)
HEALTH_CHECK_S = 1.0  # a replica that died is missed after this time
HEALTH_TIMEOUT_S = 10.0  # one that says nothing three times is ended, and what it had is asked of another
CONSTRUCTIONS = 2  # a bundle that does not load twice will not load

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Endpoint:
    """A running endpoint."""

    url: str
    bundle: ArtifactRef

    @property
    def curl(self) -> str:
        """A line to try it with."""
        key = " -H 'Authorization: Bearer $KEY'" if os.environ.get(KEYS_VARIABLE) else ""
        return f"""curl {self.url}/v1/samples{key} --json '{{"seed": 7}}' -o sample.glb"""


@contextmanager
def running(
    spec: ServeSpec,
    store: Store,
    *,
    resolve: Resolve | None = None,
    cluster: ClusterSpec | None = None,
    keys: Sequence[str] | None = None,
    tracking: str | None = None,
) -> Iterator[Endpoint]:
    """An endpoint that is ready when the block starts and drained when it ends.

    tracking: where the record of runs is, for lineage.
    keys: API keys; None reads RAYDIANCE_API_KEYS (separated by commas). Raises ConfigError for an address
    beyond loopback without a key or a port that is taken, ClusterError if no replica becomes ready in time.
    """
    given = keys_for(spec, keys)
    ref = find_bundle(store, spec.bundle, resolve)
    spec = replace(spec, port=_port(spec))
    url = f"http://{_for_url(spec.host)}:{spec.port}"
    others_ray = ray.is_initialized()
    with session(cluster or ClusterSpec()):
        try:
            _deploy(
                _replicas(spec, store, ref, tracking),
                spec,
                given,
                ref,
                catalogue_of(spec, store, ref, resolve),
            )
            _wait_until_ready(url, spec)
            with _following(spec, store, ref, resolve, tracking):
                yield Endpoint(url, ref)
        finally:
            # it may never have come up
            with contextlib.suppress(KeyError, RayError, RayServeException, TimeoutError):
                gateway = ray_serve.get_deployment_handle("gateway", GATEWAY)
                gateway.close.remote().result(timeout_s=spec.drain_timeout_s + PROXY_GRACE_S)
            ray_serve.delete(GATEWAY)
            ray_serve.delete(APPLICATION)  # drains the replicas
            if others_ray:  # Serve ends with a Ray of our own; asked to before, it complains of its own death
                ray_serve.shutdown()  # type: ignore[no-untyped-call]


def serve(
    spec: ServeSpec,
    store: Store,
    *,
    resolve: Resolve | None = None,
    cluster: ClusterSpec | None = None,
    tracking: str | None = None,
    echo: Callable[[str], None] = print,
) -> None:
    """Run the endpoint until the process is interrupted; says where it is and how to call it."""
    echo(f"loading {spec.bundle} from {store.url}")
    with running(spec, store, resolve=resolve, cluster=cluster, tracking=tracking) as endpoint:
        echo(f"serving {endpoint.bundle.key} at {endpoint.url}")
        echo(endpoint.curl)
        wait_for_the_end()
        echo("shutting down")


@contextmanager
def _following(
    spec: ServeSpec, store: Store, ref: ArtifactRef, resolve: Resolve | None, tracking: str | None
) -> Iterator[None]:
    """While the block runs, roll over to whatever bundle the alias comes to mean, and tell the gateway what the
    aliases of the others mean.

    New replicas are warmed up before the old ones are drained; a bundle that does not load, or a registry that
    does not answer, leaves the one that is served.
    """
    ended = threading.Event()

    def follow() -> None:
        served, broken = ref, None
        while not ended.wait(spec.follow_s):
            try:
                wanted = find_bundle(store, spec.bundle, resolve) if "@" in spec.bundle else ref
                if wanted not in (served, broken):
                    logger.warning("rolling over from %s to %s", served.key, wanted.key)
                    broken = wanted
                    load_bundle(store.get(wanted))  # one that cannot be loaded shall not take a replica down
                    replicas = _replicas(spec, store, wanted, tracking)
                    ray_serve.run(replicas, name=APPLICATION, route_prefix=None)
                    served, broken = wanted, None
                # told again and again: a gateway that was started anew knows only what it was started with
                gateway = ray_serve.get_deployment_handle("gateway", GATEWAY)
                gateway.adopt.remote(catalogue_of(spec, store, served, resolve)).result(timeout_s=10.0)
            except (RaydianceError, RayError, RuntimeError, TimeoutError, OSError) as error:
                logger.warning("%s goes on being served: %s", served.key, error)

    thread = threading.Thread(target=follow, name="alias", daemon=True)
    if any("@" in where for where in (spec.bundle, spec.canary or "", *spec.also)):
        thread.start()
    try:
        yield
    finally:
        ended.set()
        if thread.is_alive():
            thread.join()


def bind(
    spec: ServeSpec, store: Store, ref: ArtifactRef, keys: Sequence[ApiKey], catalogue: Catalogue
) -> Application:
    """The gateway in front of its replicas as one application, for files that tell Ray Serve of it.

    The gateway asks for a little of a core, so that it is not put on a head without any: an endpoint shall go on
    without its head.
    """
    replicas = _replicas(spec, store, ref, os.environ.get("RAYDIANCE_TRACKING"))
    return _gateway(spec, keys, catalogue, replicas, num_cpus=GATEWAY_CPUS)


def _replicas(spec: ServeSpec, store: Store, ref: ArtifactRef, tracking: str | None) -> Application:
    most = most_of(spec)
    replicas = ray_serve.deployment(
        name="replica",
        num_replicas=spec.replicas if spec.max_replicas is None else None,
        autoscaling_config=None if spec.max_replicas is None else growing(spec),
        max_ongoing_requests=most + 8,  # the engine refuses first; the rest is for questions of health
        max_queued_requests=most,
        max_constructor_retry_count=CONSTRUCTIONS,
        max_surge_percent=SURGE_PERCENT,
        graceful_shutdown_timeout_s=spec.drain_timeout_s,
        health_check_period_s=HEALTH_CHECK_S,
        health_check_timeout_s=HEALTH_TIMEOUT_S,
        logging_config=QUIET,
        ray_actor_options={"num_cpus": spec.cpus_per_replica, "num_gpus": spec.gpus_per_replica},
    )(Replica)
    return replicas.bind(store, ref, spec, tracking)


def growing(spec: ServeSpec) -> dict[str, Any]:
    """Between `replicas` and `max_replicas`, by the samples that wait and how full the network's calls are."""
    policy = {"policy_function": "raydiance.serving.scaling:Pressure", "policy_kwargs": {"slots": spec.slots}}
    return {
        "min_replicas": spec.replicas,
        "max_replicas": spec.max_replicas,
        "upscale_delay_s": spec.grow_s,
        "downscale_delay_s": spec.shrink_s,
        "look_back_period_s": max(1.0, spec.grow_s),
        "policy": policy,
    }


def _gateway(
    spec: ServeSpec,
    keys: Sequence[ApiKey],
    catalogue: Catalogue,
    replicas: Application | None = None,
    num_cpus: float = 0.0,
) -> Application:
    """The gateway; without replicas of its own it asks those of APPLICATION."""
    gateway = ray_serve.deployment(
        name="gateway",
        max_ongoing_requests=GATEWAY_REQUESTS,
        max_queued_requests=GATEWAY_REQUESTS,
        graceful_shutdown_timeout_s=spec.drain_timeout_s,
        logging_config=QUIET,
        ray_actor_options={"num_cpus": num_cpus},
    )(ray_serve.ingress()(Gateway))
    return gateway.bind(spec, keys, catalogue, replicas)


def _deploy(
    replicas: Application,
    spec: ServeSpec,
    keys: Sequence[ApiKey],
    ref: ArtifactRef,
    catalogue: Catalogue,
) -> None:
    """Start Serve and the application on it. Raises ClusterError if it does not come up."""
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    variables = {
        **environment(spec),
        # Serve kills a proxy that is not up within 5 s, which a busy machine needs for the imports alone
        "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": f"{spec.start_timeout_s:g}",
        "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": "30",
        # one event loop in a process: nothing of ours blocks it, and each hand-over to another thread costs
        "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
        "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0",
    }
    try:
        ray_serve.start(
            proxy_location="HeadOnly",
            http_options={
                "host": spec.host,
                "port": spec.port,
                "request_timeout_s": spec.request_timeout_s + PROXY_GRACE_S,
            },
            controller_options={"runtime_env": {"env_vars": variables}},
            logging_config=QUIET,
        )
        ray_serve.run(replicas, name=APPLICATION, route_prefix=None)
        ray_serve.run(_gateway(spec, keys, catalogue), name=GATEWAY, route_prefix="/")
    except (RuntimeError, TimeoutError, RayError) as error:
        reason = [line for line in str(error).splitlines() if line.strip()][-1].strip()
        raise ClusterError(f"the endpoint with {ref.key} did not start: {reason}") from error


def _wait_until_ready(url: str, spec: ServeSpec) -> None:
    end = time.monotonic() + spec.start_timeout_s
    with Client(url) as client:
        while not client.is_ready():
            if time.monotonic() > end:
                raise ClusterError(
                    f"the endpoint at {url} was not ready within {spec.start_timeout_s:g} s; "
                    "the logs of Ray Serve say why (serve/ under Ray's session folder)"
                )
            time.sleep(0.1)


def _for_url(host: str) -> str:
    """Where a client on this machine finds a listener."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"[{host}]" if ":" in host else host


def _port(spec: ServeSpec) -> int:
    """The port of the spec, or a free one for 0. Raises ConfigError if it is taken."""
    if not spec.port:
        return free_port(spec.host)
    if reason := why_taken(spec.port, spec.host):
        raise ConfigError(
            f"serve.port={spec.port} on {spec.host}: {reason}; choose another, or 0 for any free one"
        )
    return spec.port
