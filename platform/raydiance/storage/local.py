"""Artifacts on a local folder: staged inside the store, flushed to disk, then renamed in one step."""

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from raydiance.errors import ArtifactError, StoreError
from raydiance.storage.garbage import Garbage, old_folders
from raydiance.storage.manifest import MANIFEST_NAME, FileEntry, file_sha256

__all__ = ["STAGING", "LocalBackend", "verify_file"]

STAGING = ".staging"


class LocalBackend:
    """A folder. Everything that is not yet an artifact lies under its `.staging`."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def check(self) -> None:
        """Raises StoreError if the folder cannot be made or written."""
        try:
            (self.root / STAGING).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(
                f"store {self.root}: cannot be made here ({error.strerror}); choose another folder"
            ) from error

    def stage(self, token: str) -> Path:
        """A new, empty folder to write the artifact's files into."""
        folder = self.root / STAGING / token
        folder.mkdir(parents=True)
        return folder

    def commit(self, key: str, staging: Path, files: Sequence[FileEntry], manifest: bytes) -> None:
        """Make the staged folder the artifact `key`: it appears whole, or not at all."""
        target = self.root / key
        try:
            (staging / MANIFEST_NAME).write_bytes(manifest)
            for path in sorted(staging.rglob("*")):
                _flush(path)
            _flush(staging)
            target.parent.mkdir(parents=True, exist_ok=True)
            staging.rename(target)
            _flush(target.parent)
        except OSError as error:
            raise StoreError(
                f"store {self.root}: {key} could not be written ({error.strerror or error})"
            ) from error

    def read_manifest(self, key: str) -> bytes:
        """The bytes of the artifact's manifest. Raises ArtifactError if there is none."""
        try:
            return (self.root / key / MANIFEST_NAME).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            raise ArtifactError(
                f"{key}: no such artifact in the store {self.root} (it has no {MANIFEST_NAME})"
            ) from None
        except OSError as error:
            raise StoreError(
                f"store {self.root}: {key} could not be read ({error.strerror or error})"
            ) from error

    def fetch(self, key: str, manifest_sha256: str, entry: FileEntry) -> Path:
        """The file, verified. Raises ArtifactError if it is not what the manifest says."""
        path = self.root / key / entry.name
        verify_file(path, entry, f"{key}/{entry.name}")
        return path

    def folder(self, key: str, manifest_sha256: str) -> Path:
        """Where `fetch` puts the files of this artifact."""
        return self.root / key

    def keys(self, prefix: str) -> Iterator[str]:
        """The keys of all artifacts that begin with these characters, in no particular order."""
        above, _, beginning = prefix.rpartition("/")
        for parent, folders, files in os.walk(self.root / above):
            if MANIFEST_NAME in files:
                yield Path(parent).relative_to(self.root).as_posix()
                folders.clear()
            at_top = Path(parent) == self.root / above
            folders[:] = [
                name for name in folders if name.startswith(beginning if at_top else "") and name != STAGING
            ]

    def delete(self, key: str) -> None:
        """Remove the artifact, its manifest first: no half of it is ever visible. Two may do so at once."""
        folder = self.root / key
        with suppress(FileNotFoundError):
            (folder / MANIFEST_NAME).unlink(missing_ok=True)
            _flush(folder)
            for path in sorted(folder.rglob("*"), reverse=True):
                path.rmdir() if path.is_dir() else path.unlink(missing_ok=True)
            folder.rmdir()

    def garbage(self, older_than_s: float) -> Iterator[Garbage]:
        """What was left by writers and deletions that were killed, untouched for so long."""
        yield from old_folders((self.root / STAGING).glob("*"), older_than_s)
        for parent, folders, files in os.walk(self.root):
            is_artifact = MANIFEST_NAME in files
            if files and not is_artifact and Path(parent) != self.root:
                yield from old_folders(iter([Path(parent)]), older_than_s)
            if files:
                folders.clear()
            folders[:] = [name for name in folders if name != STAGING]

    def collect(self, garbage: Garbage) -> None:
        """Remove one piece of it."""
        shutil.rmtree(garbage.where)

    def used(self) -> int:
        """The bytes of all files, but for those of artifacts that are being made."""
        size = 0
        for parent, folders, files in os.walk(self.root):
            folders[:] = [name for name in folders if name != STAGING]
            for name in files:
                with suppress(FileNotFoundError):  # deleted just now
                    size += (Path(parent) / name).stat().st_size
        return size


def verify_file(path: Path, entry: FileEntry, name: str) -> None:
    """Raises ArtifactError, naming file, expected and found, if the file differs from its entry."""
    try:
        size = path.stat().st_size
        if size != entry.size:
            raise ArtifactError(
                f"{name}: expected {entry.size} bytes, found {size}; delete the artifact and make it again"
            )
        found = file_sha256(path)
    except OSError as error:
        raise ArtifactError(
            f"{name}: expected {entry.size} bytes with SHA-256 {entry.sha256}, found none "
            f"({error.strerror}); delete the artifact and make it again"
        ) from error
    if found != entry.sha256:
        raise ArtifactError(
            f"{name}: expected SHA-256 {entry.sha256}, found {found}; delete the artifact and make it again"
        )


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
