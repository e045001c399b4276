"""A replica on Ray Serve: bundles on their engines."""

import asyncio
import os
import sys
import threading
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from importlib import import_module
from typing import TypeVar

from raydiance.config.platform import ServeSpec
from raydiance.serving.listening import only_on_loopback
from raydiance.serving.messages import Answer, Description, Step
from raydiance.serving.problems import ServingError
from raydiance.serving.schema import Format, Link, ModelInfo, SampleRequest
from raydiance.storage import ArtifactRef, Store

__all__ = ["Replica", "unhurried"]

R = TypeVar("R")
NICENESS = 10  # a tenth of the claim to a core that another replica's ticks have


class Replica:
    """As a Serve deployment. Errors that belong to the request come back as values.

    One starts, which is seconds of imports, beside others that have requests to answer, such as the one in whose
    place it comes: so it leaves them the cores until it is up.
    """

    def __init__(self, store: Store, ref: ArtifactRef, spec: ServeSpec, tracking: str | None = None) -> None:
        only_on_loopback()
        unhurried(lambda: import_module("raydiance.serving.local"))
        from raydiance.serving.local import Here
        from raydiance.serving.sampler import Sampler
        from raydiance.serving.shelf import Shelf

        self._spec = spec
        own = Sampler(store.get(ref), spec)  # not in there: the ticks' thread would stay as unhurried
        unhurried(own.warm_up)
        self._shelf = Shelf(own, spec, store, tracking)
        self._here = Here(self._shelf)

    async def sample(
        self, bundle: ArtifactRef | None, request: SampleRequest, form: Format, client: str
    ) -> Answer | ServingError:
        try:
            return await self._here.sample(bundle, request, form, client)
        except ServingError as error:
            return error

    async def stream(
        self, bundle: ArtifactRef | None, request: SampleRequest, form: Format, client: str, previews: bool
    ) -> AsyncGenerator[Step | Answer | ServingError]:
        try:
            async with aclosing(self._here.stream(bundle, request, form, client, previews)) as events:
                async for event in events:
                    yield event
        except ServingError as error:
            yield error

    async def describe(self, bundle: ArtifactRef | None) -> Description | ServingError:
        try:
            return await self._here.describe(bundle)
        except ServingError as error:
            return error

    async def models(self, bundles: tuple[ArtifactRef, ...]) -> list[ModelInfo]:
        return await self._here.models(bundles)

    async def lineage(self, bundle: ArtifactRef | None) -> list[Link]:
        return await self._here.lineage(bundle)

    def check_health(self) -> None:
        self._shelf.check()

    def record_autoscaling_stats(self) -> dict[str, float]:
        return self._shelf.pressure()

    async def __del__(self) -> None:
        await asyncio.to_thread(self._shelf.close, self._spec.drain_timeout_s)


def unhurried(work: Callable[[], R]) -> R:
    """What the work returns, done by a thread that gives way to others at a processor (on Linux)."""
    with ThreadPoolExecutor(1, "unhurried", initializer=_give_way) as thread:
        return thread.submit(work).result()


def _give_way() -> None:
    if sys.platform == "linux":  # elsewhere a thread has no niceness of its own
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), os.nice(0) + NICENESS)
