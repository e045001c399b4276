"""The model registry: names, versions and aliases for bundles, which themselves stay in the store."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

from raydiance.errors import UnknownModelError
from raydiance.storage import Artifact, ArtifactRef

__all__ = ["MemoryRegistry", "ModelVersion", "Registry"]


@dataclass(frozen=True)
class ModelVersion:
    """One version of a registered model: which artifact in which store it is."""

    name: str
    version: str
    ref: ArtifactRef
    store: str
    tags: Mapping[str, str] = field(default_factory=dict)


class Registry(Protocol):
    """Names for bundles. Aliases in use: candidate, champion, previous."""

    def register_bundle(
        self, name: str, artifact: Artifact, *, description: str = "", tags: Mapping[str, str] | None = None
    ) -> str:
        """A new version of the model, which refers to the artifact; returns the version."""

    def set_alias(self, name: str, alias: str, version: str) -> None:
        """Give the alias to this version; it leaves the version that had it."""

    def annotate(self, name: str, version: str, tags: Mapping[str, str]) -> None:
        """Write down what happened to a version."""

    def resolve(self, name: str, alias: str) -> ModelVersion:
        """The version with this alias, or of this number. Raises UnknownModelError if there is none."""


class MemoryRegistry:
    """A registry for tests, and for runs without a server."""

    def __init__(self) -> None:
        self.models: dict[str, list[ModelVersion]] = {}
        self.aliases: dict[tuple[str, str], str] = {}

    def register_bundle(
        self, name: str, artifact: Artifact, *, description: str = "", tags: Mapping[str, str] | None = None
    ) -> str:
        versions = self.models.setdefault(name, [])
        number = str(len(versions) + 1)
        versions.append(ModelVersion(name, number, artifact.ref, artifact.store.url, dict(tags or {})))
        return number

    def set_alias(self, name: str, alias: str, version: str) -> None:
        self.resolve(name, version)
        self.aliases[name, alias] = version

    def annotate(self, name: str, version: str, tags: Mapping[str, str]) -> None:
        known = self.resolve(name, version)
        versions = self.models[name]
        versions[versions.index(known)] = replace(known, tags={**known.tags, **tags})

    def resolve(self, name: str, alias: str) -> ModelVersion:
        version = self.aliases.get((name, alias), alias)
        for known in self.models.get(name, []):
            if known.version == version:
                return known
        raise UnknownModelError(f"model {name!r}: no version or alias {alias!r}; publish one first")
