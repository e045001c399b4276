"""The endpoint in this process, without Ray: for development, for tests, and where one process is enough."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import aclosing, contextmanager
from pathlib import Path
from threading import Thread
from time import monotonic, sleep

import uvicorn

from raydiance.config.platform import ServeSpec
from raydiance.errors import ClusterError
from raydiance.serving.app import build_app
from raydiance.serving.bundles import Catalogue, Resolve, catalogue_of, find_bundle
from raydiance.serving.ending import wait_for_the_end
from raydiance.serving.keys import ApiKey, KeyRing, keys_for
from raydiance.serving.messages import Answer, Description, Step
from raydiance.serving.routing import NOTHING_MORE, Router
from raydiance.serving.sampler import Sampler
from raydiance.serving.schema import Format, Link, ModelInfo, SampleRequest
from raydiance.serving.shelf import Shelf
from raydiance.storage import ArtifactRef, Store

__all__ = ["Local", "running_here", "serve_here"]

DEFAULTS, GRACE_S = ServeSpec(), 5


class Here:
    """A shelf of this process as a pool of replicas."""

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf

    async def sample(
        self, bundle: ArtifactRef | None, request: SampleRequest, form: Format, client: str
    ) -> Answer:
        async with self._shelf.lend(bundle) as sampler:
            return await sampler.sample(request, form, client)

    async def stream(
        self, bundle: ArtifactRef | None, request: SampleRequest, form: Format, client: str, previews: bool
    ) -> AsyncGenerator[Step | Answer]:
        async with (
            self._shelf.lend(bundle) as sampler,
            aclosing(sampler.stream(request, form, client, previews=previews)) as events,
        ):
            async for event in events:
                yield event

    async def describe(self, bundle: ArtifactRef | None) -> Description:
        async with self._shelf.lend(bundle) as sampler:
            return sampler.describe()

    async def models(self, bundles: tuple[ArtifactRef, ...]) -> list[ModelInfo]:
        return self._shelf.models(bundles)

    async def lineage(self, bundle: ArtifactRef | None) -> list[Link]:
        return await asyncio.to_thread(self._shelf.lineage, bundle)


class Local(Router):
    """What the HTTP face asks, with one replica of this process behind it."""

    def __init__(
        self,
        sampler: Sampler,
        spec: ServeSpec = DEFAULTS,
        store: Store | None = None,
        catalogue: Catalogue = NOTHING_MORE,
        tracking: str | None = None,
    ) -> None:
        self.shelf = Shelf(sampler, spec, store, tracking)
        super().__init__(Here(self.shelf), spec, catalogue)


@contextmanager
def running_here(
    spec: ServeSpec,
    store: Store,
    ref: ArtifactRef,
    keys: Sequence[ApiKey] = (),
    resolve: Resolve | None = None,
    tracking: str | None = None,
) -> Iterator[str]:
    """The address of an endpoint that runs in a thread of this process while the block does."""
    sampler = Sampler(store.get(ref), spec)
    backend = Local(sampler, spec, store, catalogue_of(spec, store, ref, resolve), tracking)
    try:
        sampler.warm_up()
        ring = KeyRing(keys, None if spec.keys is None else Path(spec.keys))
        app = build_app(backend, spec, ring)
        server = uvicorn.Server(
            uvicorn.Config(
                app,
                host=spec.host,
                port=spec.port,
                log_level="warning",
                access_log=False,
                timeout_graceful_shutdown=GRACE_S,
            )
        )
        thread = Thread(target=server.run, name="http", daemon=True)
        thread.start()
        end = monotonic() + spec.start_timeout_s
        while not server.started:
            if not thread.is_alive() or monotonic() > end:
                raise ClusterError(f"serve.port={spec.port} on {spec.host}: the endpoint did not start there")
            sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        try:
            yield f"http://{spec.host}:{port}"
        finally:
            asyncio.run(backend.close(spec.drain_timeout_s))
            server.should_exit = True
            thread.join()
    finally:
        backend.shelf.close()


def serve_here(
    spec: ServeSpec,
    store: Store,
    resolve: Resolve | None = None,
    tracking: str | None = None,
    echo: Callable[[str], None] = print,
) -> None:
    """Run the endpoint in this process until ^C. Raises ConfigError beyond loopback without keys."""
    keys, ref = keys_for(spec), find_bundle(store, spec.bundle, resolve)
    echo(f"loading {ref.key} from {store.url}")
    with running_here(spec, store, ref, keys, resolve, tracking) as url:
        echo(f"serving {ref.key} at {url}")
        wait_for_the_end()
        echo("shutting down")
