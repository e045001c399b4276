"""The endpoint in this process, without Ray: for development, for tests, and where one process is enough."""

from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event, Thread
from time import monotonic, sleep

import uvicorn

from raydiance.config.platform import ServeSpec
from raydiance.errors import ClusterError
from raydiance.serving.app import build_app
from raydiance.serving.keys import ApiKey, KeyRing, keys_for
from raydiance.serving.messages import Answer, Description, Step
from raydiance.serving.sampler import Sampler
from raydiance.serving.schema import Format, Link, SampleRequest
from raydiance.storage import ArtifactRef, Store

__all__ = ["Local", "running_here", "serve_here"]

GRACE_S = 5


class Local:
    """A sampler of this process as a backend."""

    def __init__(self, sampler: Sampler) -> None:
        self._sampler = sampler

    async def sample(self, request: SampleRequest, form: Format) -> Answer:
        return await self._sampler.sample(request, form)

    def stream(
        self, request: SampleRequest, form: Format, *, previews: bool = True
    ) -> AsyncGenerator[Step | Answer]:
        return self._sampler.stream(request, form, previews=previews)

    async def describe(self) -> Description:
        return self._sampler.describe()

    async def lineage(self) -> list[Link]:
        return self._sampler.lineage()


@contextmanager
def running_here(
    spec: ServeSpec, store: Store, ref: ArtifactRef, keys: Sequence[ApiKey] = ()
) -> Iterator[str]:
    """The address of an endpoint that runs in a thread of this process while the block does."""
    sampler = Sampler(store.get(ref), spec, store=store)
    try:
        sampler.warm_up()
        ring = KeyRing(keys, None if spec.keys is None else Path(spec.keys))
        app = build_app(Local(sampler), spec, ring)
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
            server.should_exit = True
            thread.join()
    finally:
        sampler.close()


def serve_here(spec: ServeSpec, store: Store, ref: ArtifactRef, echo: Callable[[str], None] = print) -> None:
    """Run the endpoint in this process until ^C. Raises ConfigError beyond loopback without keys."""
    keys = keys_for(spec)
    echo(f"loading {ref.key} from {store.url}")
    with running_here(spec, store, ref, keys) as url:
        echo(f"serving {ref.key} at {url}")
        with suppress(KeyboardInterrupt):
            Event().wait()
        echo("shutting down")
