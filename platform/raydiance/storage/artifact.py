"""An artifact that is there (Artifact), and one that is being made (Draft)."""

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from raydiance.errors import ArtifactError
from raydiance.storage.manifest import ArtifactRef, FileEntry, Manifest, check_file_name, file_sha256

__all__ = ["TRANSFERS", "Artifact", "Draft", "Files", "file_entries"]

TRANSFERS = 8


class Files(Protocol):
    """Where an artifact's files come from; `Store` is one."""

    @property
    def url(self) -> str: ...

    def fetch(self, ref: ArtifactRef, entry: FileEntry) -> Path: ...

    def folder(self, ref: ArtifactRef) -> Path: ...


@dataclass(frozen=True, eq=False)
class Artifact:
    """A committed artifact; a file is checked against the manifest the first time it is asked for."""

    ref: ArtifactRef
    manifest: Manifest
    store: Files
    _verified: dict[str, Path] = field(default_factory=dict, repr=False)

    @property
    def uri(self) -> str:
        """The full address: the store's URL and the key."""
        return f"{self.store.url}/{self.ref.key}"

    @property
    def files(self) -> tuple[str, ...]:
        """The names of the files, as `path` takes them."""
        return tuple(entry.name for entry in self.manifest.files)

    def path(self, name: str) -> Path:
        """The file on this machine, verified by size and SHA-256. Raises ArtifactError if it is broken."""
        if name not in self._verified:
            self._verified[name] = self.store.fetch(self.ref, self._entry(name))
        return self._verified[name]

    def read_json(self, name: str) -> Any:
        """The value in a JSON file of the artifact."""
        return json.loads(self.path(name).read_bytes())

    def verify(self) -> None:
        """Check every file, several at a time. Raises ArtifactError for the first that is not intact."""
        with ThreadPoolExecutor(TRANSFERS) as pool:
            for _ in pool.map(self.path, self.files):
                pass

    def folder(self) -> Path:
        """A folder on this machine with all files in place, verified."""
        self.verify()
        return self.store.folder(self.ref)

    def _entry(self, name: str) -> FileEntry:
        for entry in self.manifest.files:
            if entry.name == name:
                return entry
        raise ArtifactError(f"{self.ref.key}: no file {name!r}; it has {', '.join(self.files) or 'none'}")


@dataclass(eq=False)
class Draft:
    """An artifact being made: files go to `path(name)`; it appears in the store when the block ends well."""

    key: str
    kind: str
    spec: object
    seeds: Mapping[str, int]
    parents: Sequence[ArtifactRef]
    meta: dict[str, object]
    staging: Path
    _artifact: Artifact | None = None

    def path(self, name: str) -> Path:
        """Where to write the file of this name; its folder is there."""
        path = self.staging / check_file_name(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    @property
    def artifact(self) -> Artifact:
        """The committed artifact. Raises ArtifactError before the end of the block."""
        if self._artifact is None:
            raise ArtifactError(f"{self.key}: not committed yet; ask for it after the `with` block")
        return self._artifact


def file_entries(folder: Path) -> tuple[FileEntry, ...]:
    """One entry for each file below the folder, sorted by name. Raises ArtifactError for links."""
    paths = sorted(path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
    for path in paths:
        if path.is_symlink() or not path.is_file():
            raise ArtifactError(f"{path.relative_to(folder)}: an artifact holds plain files, no links")
    with ThreadPoolExecutor(TRANSFERS) as pool:
        hashes = pool.map(file_sha256, paths)
    return tuple(
        FileEntry(
            name=check_file_name(path.relative_to(folder).as_posix()), size=path.stat().st_size, sha256=sha256
        )
        for path, sha256 in zip(paths, hashes, strict=True)
    )
