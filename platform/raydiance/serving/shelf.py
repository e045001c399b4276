"""The bundles of a replica: one that stays, and others for as long as the memory for weights allows."""

import asyncio
import threading
from collections import Counter, OrderedDict
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from raydiance.config.platform import ServeSpec
from raydiance.errors import RaydianceError
from raydiance.generation.bundle import BundleSpec
from raydiance.serving.history import chain, with_runs
from raydiance.serving.problems import NotReadyError, ServingError
from raydiance.serving.sampler import Sampler, model_info
from raydiance.serving.schema import Link, ModelInfo
from raydiance.spec import from_plain
from raydiance.storage import Artifact, ArtifactRef, Store

__all__ = ["Shelf"]


class Shelf:
    """Samplers by bundle. The one given stays; others are loaded when they are asked for, and those used
    longest ago are let go when the weights of all would be more than `spec.memory_mb`. tracking: where the
    record of runs is, for lineage.
    """

    def __init__(
        self,
        sampler: Sampler,
        spec: ServeSpec,
        store: Store | None = None,
        tracking: str | None = None,
    ) -> None:
        self._own, self._spec, self._store, self._tracking = sampler, spec, store, tracking
        self._chains: dict[ArtifactRef, list[Link]] = {}
        self._loaded: OrderedDict[ArtifactRef, Sampler] = OrderedDict()
        self._users: Counter[ArtifactRef] = Counter()
        self._lock = threading.Lock()

    @asynccontextmanager
    async def lend(self, ref: ArtifactRef | None = None) -> AsyncGenerator[Sampler]:
        """The sampler of a bundle, None for the one that stays; it is not let go while the block runs.

        Raises NotReadyError if the bundle cannot be loaded, or only in place of others that are at work.
        """
        if ref is None or ref == self._own.bundle.ref:
            yield self._own
            return
        sampler = await asyncio.to_thread(self._take, ref)
        try:
            yield sampler
        finally:
            self._users[ref] -= 1

    def models(self, refs: tuple[ArtifactRef, ...]) -> list[ModelInfo]:
        """The one that stays, and of these whatever can be read; none of them is loaded for it."""
        own = self._own.describe().model
        return [own, *(self._info(ref) for ref in refs)] if self._store else [own]

    def lineage(self, ref: ArtifactRef | None = None) -> list[Link]:
        """A bundle and everything it was made from, newest first; a missing link says so."""
        ref = ref or self._own.bundle.ref
        if self._store is None:
            return [Link(key=ref.key, kind="bundle", sha256=ref.sha256, parents=[])]
        links = chain(self._store, ref)
        if self._tracking is None:
            return links
        if ref not in self._chains:  # what made an artifact does not change
            links = with_runs(links, self._tracking)
            if all(link.run for link in links):
                self._chains[ref] = links
            return links
        return self._chains[ref]

    def check(self) -> None:
        """Raise NotReadyError if an engine has stopped."""
        for sampler in (self._own, *self._loaded.values()):
            sampler.check()

    def pressure(self) -> dict[str, float]:
        """Samples waiting and under way, and how full the network's calls were since the last question."""
        engines = [sampler.engine for sampler in (self._own, *self._loaded.values())]
        samples = sum(engine.load["waiting"] + engine.load["running"] for engine in engines)
        return {"samples": float(samples), "occupancy": max(engine.occupancy() for engine in engines)}

    def close(self, drain_s: float = 0.0) -> None:
        """Finish what is under way for up to `drain_s`, then stop."""
        for sampler in (self._own, *self._loaded.values()):
            sampler.close(drain_s)

    def _take(self, ref: ArtifactRef) -> Sampler:
        with self._lock:
            if ref not in self._loaded:
                self._loaded[ref] = self._load(ref)
            self._loaded.move_to_end(ref)
            self._users[ref] += 1
            return self._loaded[ref]

    def _load(self, ref: ArtifactRef) -> Sampler:
        try:
            artifact = self._artifact(ref)
            self._make_room(weight_bytes(artifact))
            return Sampler(artifact, self._spec)
        except ServingError:
            raise
        except (RaydianceError, RuntimeError, OSError) as error:
            raise NotReadyError(f"{ref.key} cannot be loaded: {error}") from error

    def _make_room(self, needed: int) -> None:
        held = [self._own, *self._loaded.values()]
        total = needed + sum(sampler.weight_bytes for sampler in held)
        for ref in [ref for ref in self._loaded if not self._users[ref]]:
            if total <= self._spec.memory_mb * 1e6:
                return
            sampler = self._loaded.pop(ref)
            total -= sampler.weight_bytes
            sampler.close()
        if total > self._spec.memory_mb * 1e6:
            raise NotReadyError(
                f"{total / 1e6:.0f} MB of weights would be loaded, and serve.memory_mb={self._spec.memory_mb:g}: "
                "other bundles are at work; try again later",
                5.0,
            )

    def _artifact(self, ref: ArtifactRef) -> Artifact:
        if self._store is None:
            raise NotReadyError(f"{ref.key}: this replica has no store to load it from")
        return self._store.get(ref)

    def _info(self, ref: ArtifactRef) -> ModelInfo:
        artifact = self._artifact(ref)
        return model_info(artifact, from_plain(BundleSpec, artifact.read_json("bundle.json"), "bundle.json"))


def weight_bytes(artifact: Artifact) -> int:
    """What the weights of a bundle take in memory: the size of their files."""
    return sum(entry.size for entry in artifact.manifest.files if entry.name.endswith(".safetensors"))
