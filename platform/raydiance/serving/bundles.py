"""Which bundles an endpoint serves: the one for all, others by name, and one on trial."""

import logging
from collections.abc import Callable
from dataclasses import dataclass

from raydiance.config.platform import ServeSpec
from raydiance.errors import ConfigError, RaydianceError
from raydiance.storage import ArtifactRef, Store

__all__ = ["Catalogue", "Resolve", "catalogue_of", "find_bundle"]

Resolve = Callable[[str, str], ArtifactRef]
"""resolve(name, alias) -> the bundle that the registry means."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Catalogue:
    """Bundles beside the one for all: those that requests name, and the canary, with what speaks against it."""

    also: tuple[ArtifactRef, ...] = ()
    canary: ArtifactRef | None = None
    worse: str = ""

    @property
    def refs(self) -> tuple[ArtifactRef, ...]:
        """Every one of them."""
        return self.also if self.canary is None else (*self.also, self.canary)


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


def catalogue_of(
    spec: ServeSpec, store: Store, served: ArtifactRef, resolve: Resolve | None = None
) -> Catalogue:
    """What `also` and `canary` mean now, beside the bundle that is served.

    A name that leads nowhere is left out and logged: what is served goes on being served.
    """
    found = [_found(store, where, resolve) for where in spec.also]
    also = tuple(dict.fromkeys(ref for ref in found if ref not in (None, served)))
    canary = None if spec.canary is None else _found(store, spec.canary, resolve)
    if canary is None or canary == served:
        return Catalogue(tuple(ref for ref in also if ref is not None))
    return Catalogue(
        tuple(ref for ref in also if ref not in (None, canary)), canary, _worse(store, canary, served)
    )


def _found(store: Store, where: str, resolve: Resolve | None) -> ArtifactRef | None:
    try:
        return find_bundle(store, where, resolve)
    except RaydianceError as error:
        logger.warning("%s is not served: %s", where, error)
        return None


def _worse(store: Store, canary: ArtifactRef, served: ArtifactRef) -> str:
    """In which figures the canary is worse than what is served, if both were evaluated alike."""
    from raydiance.cluster.promotion import compare  # here, because the gateway needs no torch

    try:
        checks = compare(store.get(canary), store.get(served))
    except RaydianceError as error:
        return str(error)
    return "; ".join(str(check) for check in checks if not check.passed)
