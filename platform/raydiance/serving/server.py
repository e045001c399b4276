"""The endpoint on Ray Serve: replicas that hold the bundle behind a gateway that speaks HTTP."""

import asyncio
import contextlib
import logging
import os
import socket
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray
from ray import serve as ray_serve
from ray.exceptions import RayActorError, RayError
from ray.serve import Application
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle

from raydiance.cluster.session import session
from raydiance.config.platform import ClusterSpec, ServeSpec
from raydiance.errors import ClusterError, ConfigError, RaydianceError
from raydiance.generation import load_bundle
from raydiance.serving.app import build_app
from raydiance.serving.client import Client
from raydiance.serving.keys import KEYS_VARIABLE, ApiKey, KeyRing, keys_for
from raydiance.serving.limits import MAX_BODY_VARIABLE
from raydiance.serving.messages import Answer, Description, Step
from raydiance.serving.problems import NotReadyError, OverloadError, ServingError
from raydiance.serving.sampler import Sampler
from raydiance.serving.schema import Format, Link, SampleRequest
from raydiance.storage import ArtifactRef, Store

__all__ = ["Endpoint", "Resolve", "bind", "find_bundle", "running", "serve"]

APPLICATION, GATEWAY = "raydiance", "gateway"  # apart, so that the gateway goes on while replicas change
ATTEMPTS = (
    3  # a replica that dies takes its requests with it; they are asked again, and answer the same bytes
)
PROXY_GRACE_S = 5.0  # the gateway answers a timeout before Serve's proxy would cut the connection
GATEWAY_REQUESTS = 1000
QUIET = {"log_level": "WARNING", "enable_access_log": False}
CONSTRUCTIONS = 2  # a bundle that does not load twice will not load

logger = logging.getLogger(__name__)

Resolve = Callable[[str, str], ArtifactRef]
"""resolve(name, alias) -> the bundle that the registry means."""


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


class Replica:
    """A bundle on an engine, as a Serve deployment. Errors that belong to the request come back as values."""

    def __init__(self, store: Store, ref: ArtifactRef, spec: ServeSpec) -> None:
        self._spec = spec
        self._sampler = Sampler(store.get(ref), spec, store=store)
        self._sampler.warm_up()

    async def sample(self, request: SampleRequest, form: Format) -> Answer | ServingError:
        try:
            return await self._sampler.sample(request, form)
        except ServingError as error:
            return error

    async def stream(
        self, request: SampleRequest, form: Format, previews: bool
    ) -> AsyncGenerator[Step | Answer | ServingError]:
        try:
            async with aclosing(self._sampler.stream(request, form, previews=previews)) as events:
                async for event in events:
                    yield event
        except ServingError as error:
            yield error

    async def describe(self) -> Description:
        return self._sampler.describe()

    async def lineage(self) -> list[Link]:
        return await asyncio.to_thread(self._sampler.lineage)

    def check_health(self) -> None:
        self._sampler.check()

    async def __del__(self) -> None:
        await asyncio.to_thread(self._sampler.close, self._spec.drain_timeout_s)


class Gateway:
    """HTTP in front of the replicas: limits, keys, retries. Holds no model and no torch."""

    def __init__(
        self, spec: ServeSpec, keys: Sequence[ApiKey], replicas: DeploymentHandle[Any] | None = None
    ) -> None:
        self._backend = _Replicas(replicas or ray_serve.get_deployment_handle("replica", APPLICATION))
        self._spec = spec
        self._keys = KeyRing(keys, None if spec.keys is None else Path(spec.keys))

    def __serve_build_asgi_app__(self) -> object:
        return build_app(self._backend, self._spec, self._keys)


class _Replicas:
    """The replicas behind a handle, as a `Backend`."""

    def __init__(self, handle: DeploymentHandle[Any]) -> None:
        self._handle = handle

    async def sample(self, request: SampleRequest, form: Format) -> Answer:
        answer: Answer | ServingError = await self._ask("sample", request, form)
        if isinstance(answer, ServingError):
            raise answer
        return answer

    async def stream(
        self, request: SampleRequest, form: Format, *, previews: bool = True
    ) -> AsyncGenerator[Step | Answer]:
        for _ in range(ATTEMPTS):
            handle = self._handle.options(stream=True)
            with _told():
                asked: Any = handle.stream.remote(request, form, previews)
                try:
                    async for event in asked:
                        if isinstance(event, ServingError):
                            raise event
                        yield event
                    return
                except RayActorError:
                    continue  # the steps begin anew, and lead to the same bytes
                finally:
                    asked.cancel()
        raise _lost()

    async def describe(self) -> Description:
        description: Description = await self._ask("describe")
        return description

    async def lineage(self) -> list[Link]:
        links: list[Link] = await self._ask("lineage")
        return links

    async def _ask(self, method: str, *arguments: object) -> Any:
        for _ in range(ATTEMPTS):
            with _told():
                try:
                    return await getattr(self._handle, method).remote(*arguments)
                except RayActorError:
                    continue
        raise _lost()


@contextmanager
def _told() -> Iterator[None]:
    """Serve's refusals as ours."""
    try:
        yield
    except BackPressureError as error:
        raise OverloadError(
            "all replicas are busy and their queues are full; try again later", 2.0
        ) from error
    except DeploymentUnavailableError as error:
        raise NotReadyError("no replica is up; it is being started again", 5.0) from error


def _lost() -> NotReadyError:
    return NotReadyError(f"the replica was lost {ATTEMPTS} times while it worked on this request", 5.0)


def find_bundle(store: Store, where: str, resolve: Resolve | None = None) -> ArtifactRef:
    """The bundle at a key, at NAME@ALIAS in the registry, or the "latest" in the store.

    Raises ConfigError if there is none.
    """
    if where == "latest":
        artifact = store.latest("bundle/")
        if artifact is None:
            raise ConfigError(
                f"serve.bundle=latest: the store {store.url} holds no bundle; run publish first"
            )
        return artifact.ref
    if "@" in where:
        if resolve is None:
            raise ConfigError(
                f"serve.bundle={where}: there is no model registry to ask; give a key of the store"
            )
        name, _, alias = where.partition("@")
        return resolve(name, alias)
    return store.get(where).ref


@contextmanager
def running(
    spec: ServeSpec,
    store: Store,
    *,
    resolve: Resolve | None = None,
    cluster: ClusterSpec | None = None,
    keys: Sequence[str] | None = None,
) -> Iterator[Endpoint]:
    """An endpoint that is ready when the block starts and drained when it ends.

    keys: API keys; None reads RAYDIANCE_API_KEYS (separated by commas). Raises ConfigError for an address
    beyond loopback without a key or a port that is taken, ClusterError if no replica becomes ready in time.
    """
    given = keys_for(spec, keys)
    ref = find_bundle(store, spec.bundle, resolve)
    spec = replace(spec, port=_free_port(spec))
    url = f"http://{_for_url(spec.host)}:{spec.port}"
    others_ray = ray.is_initialized()
    with session(cluster or ClusterSpec()):
        try:
            _deploy(spec, store, ref, given)
            _wait_until_ready(url, spec)
            with _following(spec, store, ref, resolve):
                yield Endpoint(url, ref)
        finally:
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
    echo: Callable[[str], None] = print,
) -> None:
    """Run the endpoint until the process is interrupted; says where it is and how to call it."""
    echo(f"loading {spec.bundle} from {store.url}")
    with running(spec, store, resolve=resolve, cluster=cluster) as endpoint:
        echo(f"serving {endpoint.bundle.key} at {endpoint.url}")
        echo(endpoint.curl)
        with contextlib.suppress(KeyboardInterrupt):
            while True:
                time.sleep(3600)
        echo("shutting down")


@contextmanager
def _following(spec: ServeSpec, store: Store, ref: ArtifactRef, resolve: Resolve | None) -> Iterator[None]:
    """While the block runs, roll over to whatever bundle the alias comes to mean.

    New replicas are warmed up before the old ones are drained; a bundle that does not load, or a registry that
    does not answer, leaves the one that is served.
    """
    ended = threading.Event()

    def follow() -> None:
        served, broken = ref, None
        while not ended.wait(spec.follow_s):
            try:
                wanted = find_bundle(store, spec.bundle, resolve)
                if wanted in (served, broken):
                    continue
                logger.warning("rolling over from %s to %s", served.key, wanted.key)
                broken = wanted
                load_bundle(store.get(wanted))  # one that cannot be loaded shall not take a replica down
                ray_serve.run(_replicas(spec, store, wanted), name=APPLICATION, route_prefix=None)
                served, broken = wanted, None
            except (RaydianceError, RuntimeError, OSError) as error:
                logger.warning("%s goes on being served: %s", served.key, error)

    thread = threading.Thread(target=follow, name="alias", daemon=True)
    if "@" in spec.bundle:
        thread.start()
    try:
        yield
    finally:
        ended.set()
        if thread.is_alive():
            thread.join()


def bind(spec: ServeSpec, store: Store, ref: ArtifactRef, keys: Sequence[ApiKey]) -> Application:
    """The gateway in front of its replicas as one application, for files that tell Ray Serve of it."""
    return _gateway(spec, keys, _replicas(spec, store, ref))


def _replicas(spec: ServeSpec, store: Store, ref: ArtifactRef) -> Application:
    capacity = spec.slots + spec.queue
    replicas = ray_serve.deployment(
        name="replica",
        num_replicas=spec.replicas,
        max_ongoing_requests=capacity + 8,  # the engine refuses first; the rest is for questions of health
        max_queued_requests=capacity,
        max_constructor_retry_count=CONSTRUCTIONS,
        graceful_shutdown_timeout_s=spec.drain_timeout_s,
        health_check_period_s=5.0,
        logging_config=QUIET,
        ray_actor_options={"num_cpus": spec.cpus_per_replica, "num_gpus": spec.gpus_per_replica},
    )(Replica)
    return replicas.bind(store, ref, spec)


def _gateway(spec: ServeSpec, keys: Sequence[ApiKey], replicas: Application | None = None) -> Application:
    """The gateway; without replicas of its own it asks those of APPLICATION."""
    gateway = ray_serve.deployment(
        name="gateway",
        max_ongoing_requests=GATEWAY_REQUESTS,
        max_queued_requests=GATEWAY_REQUESTS,
        graceful_shutdown_timeout_s=spec.drain_timeout_s,
        logging_config=QUIET,
        ray_actor_options={"num_cpus": 0},
    )(ray_serve.ingress()(Gateway))
    return gateway.bind(spec, keys, replicas)


def _deploy(spec: ServeSpec, store: Store, ref: ArtifactRef, keys: Sequence[ApiKey]) -> None:
    """Start Serve and the application on it. Raises ClusterError if it does not come up."""
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    environment = {
        "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "raydiance.serving.limits:proxy_middlewares",
        MAX_BODY_VARIABLE: str(spec.max_body_bytes),
        # Serve kills a proxy that is not up within 5 s, which a busy machine needs for the imports alone
        "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": f"{spec.start_timeout_s:g}",
        "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": "30",
    }
    try:
        ray_serve.start(
            proxy_location="HeadOnly",
            http_options={
                "host": spec.host,
                "port": spec.port,
                "request_timeout_s": spec.request_timeout_s + PROXY_GRACE_S,
            },
            controller_options={"runtime_env": {"env_vars": environment}},
            logging_config=QUIET,
        )
        ray_serve.run(_replicas(spec, store, ref), name=APPLICATION, route_prefix=None)
        ray_serve.run(_gateway(spec, keys), name=GATEWAY, route_prefix="/")
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


def _free_port(spec: ServeSpec) -> int:
    """The port of the spec, or any free one for 0. Raises ConfigError if it is taken."""
    family = socket.AF_INET6 if ":" in spec.host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((spec.host, spec.port))
        except OSError as error:
            raise ConfigError(
                f"serve.port={spec.port} on {spec.host}: {error.strerror}; "
                "choose another, or 0 for any free one"
            ) from error
        port: int = probe.getsockname()[1]
        return port
