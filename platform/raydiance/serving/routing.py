"""Which bundle answers a request: the one that it names, the one on trial for its share, else the one for all."""

import asyncio
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager, suppress
from typing import Protocol

from raydiance.config.platform import ServeSpec
from raydiance.serving.bundles import Catalogue
from raydiance.serving.canary import Canary
from raydiance.serving.identity import DIGITS
from raydiance.serving.messages import Answer, Description, Step
from raydiance.serving.places import Places, most_of
from raydiance.serving.problems import NotFoundError, NotReadyError, ServingError
from raydiance.serving.schema import CanaryInfo, Format, Link, ModelInfo, ModelList, SampleRequest
from raydiance.storage import ArtifactRef

__all__ = ["NOTHING_MORE", "Pool", "Router"]


NOTHING_MORE = Catalogue()


class Pool(Protocol):
    """Replicas that make samples from any bundle; None is the one for all."""

    def stream(
        self,
        bundle: ArtifactRef | None,
        request: SampleRequest,
        form: Format,
        client: str,
        previews: bool,
    ) -> AsyncGenerator[Step | Answer]: ...

    async def sample(
        self, bundle: ArtifactRef | None, request: SampleRequest, form: Format, client: str
    ) -> Answer: ...

    async def describe(self, bundle: ArtifactRef | None) -> Description: ...

    async def models(self, bundles: tuple[ArtifactRef, ...]) -> list[ModelInfo]: ...

    async def lineage(self, bundle: ArtifactRef | None) -> list[Link]: ...


class Router:
    """What the HTTP face asks."""

    def __init__(self, pool: Pool, spec: ServeSpec, catalogue: Catalogue = NOTHING_MORE) -> None:
        self._pool, self._spec = pool, spec
        self._catalogue = NOTHING_MORE
        self._canary: Canary | None = None
        self._places, self._closed = Places(most_of(spec)), False
        self.adopt(catalogue)

    def adopt(self, catalogue: Catalogue) -> None:
        """Serve these bundles from now on; a trial that goes on keeps what it has counted."""
        if catalogue == self._catalogue:
            return
        if catalogue.canary != self._catalogue.canary:
            self._canary = self._on_trial(catalogue)
        self._catalogue = catalogue

    async def close(self, timeout_s: float) -> None:
        """Take on nothing more, and wait for what is under way."""
        self._closed = True
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while self._places.taken:
                    await asyncio.sleep(0.05)

    async def sample(self, request: SampleRequest, form: Format, client: str = "") -> Answer:
        with self._counted(client):
            return await self._sample(request, form, client)

    async def _sample(self, request: SampleRequest, form: Format, client: str) -> Answer:
        bundle = await self._named(request.model)
        trial = self._trial(request, form)
        if trial is not None:
            try:
                answer = await self._pool.sample(self._catalogue.canary, request, form, client)
            except ServingError as error:  # what is served answers in its place
                trial.count(error, mine=True)
            else:
                trial.count(None, mine=True)
                return answer
        try:
            answer = await self._pool.sample(bundle, request, form, client)
        except ServingError as error:
            self._count(request, error)
            raise
        self._count(request, None)
        return answer

    async def stream(
        self, request: SampleRequest, form: Format, client: str = "", *, previews: bool = True
    ) -> AsyncGenerator[Step | Answer]:
        with self._counted(client):
            async with aclosing(self._stream(request, form, client, previews)) as events:
                async for event in events:
                    yield event

    async def _stream(
        self, request: SampleRequest, form: Format, client: str, previews: bool
    ) -> AsyncGenerator[Step | Answer]:
        bundle = await self._named(request.model)
        trial = self._trial(request, form)
        if trial is not None:
            try:
                async with aclosing(
                    self._pool.stream(self._catalogue.canary, request, form, client, previews)
                ) as events:
                    async for event in events:
                        yield event
            except ServingError as error:
                trial.count(error, mine=True)
            else:
                trial.count(None, mine=True)
                return
        try:
            async with aclosing(self._pool.stream(bundle, request, form, client, previews)) as events:
                async for event in events:
                    yield event
        except ServingError as error:
            self._count(request, error)
            raise
        self._count(request, None)

    async def describe(self, model: str | None = None) -> Description:
        return await self._pool.describe(await self._named(model))

    async def models(self) -> ModelList:
        models = await self._pool.models(self._catalogue.refs)
        canary = self._canary
        if canary is None:
            return ModelList(models=models)
        return ModelList(
            models=models,
            canary=CanaryInfo(
                name=canary.name,
                share=canary.share,
                asked=canary.mine.asked,
                failed=canary.mine.failed,
                returned=canary.returned or None,
            ),
        )

    async def lineage(self, model: str | None = None) -> list[Link]:
        return await self._pool.lineage(await self._named(model))

    @contextmanager
    def _counted(self, client: str) -> Iterator[None]:
        if self._closed:
            raise NotReadyError("the endpoint is shutting down; ask another one, or later", 5.0)
        with self._places.one(client):
            yield

    async def _named(self, model: str | None) -> ArtifactRef | None:
        """The bundle of a name or of the first digits of a SHA-256. Raises NotFoundError."""
        if model is None:
            return None
        for ref in self._catalogue.refs:
            if model in (name_of(ref.key), ref.sha256[:DIGITS]):
                return ref
        served = (await self._pool.describe(None)).model
        if model in (served.name, served.bundle_sha256[:DIGITS]):
            return None
        names = ", ".join([served.name, *(name_of(ref.key) for ref in self._catalogue.refs)])
        raise NotFoundError(f"model {model!r}: {names} is served here (GET /v1/models)")

    def _on_trial(self, catalogue: Catalogue) -> Canary | None:
        if catalogue.canary is None:
            return None
        spec, name = self._spec, name_of(catalogue.canary.key)
        return Canary(name, spec.canary_share, spec.canary_errors, catalogue.worse)

    def _trial(self, request: SampleRequest, form: Format) -> Canary | None:
        if request.model is not None or self._canary is None or not self._canary.takes(request, form):
            return None
        return self._canary

    def _count(self, request: SampleRequest, error: ServingError | None) -> None:
        if request.model is None and self._canary is not None:
            self._canary.count(error, mine=False)


def name_of(key: str) -> str:
    """What a bundle is called in requests: the last part of its key."""
    return key.rsplit("/", 1)[-1]
