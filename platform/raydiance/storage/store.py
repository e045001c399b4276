"""The store: one folder or one s3:// prefix that holds every artifact."""

import errno
import hashlib
import logging
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache, partial
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote, urlsplit

from raydiance.errors import ArtifactError, StoreError
from raydiance.spec import to_plain
from raydiance.storage.artifact import TRANSFERS, Artifact, Draft, file_entries
from raydiance.storage.garbage import Garbage
from raydiance.storage.local import LocalBackend
from raydiance.storage.manifest import ArtifactRef, FileEntry, Manifest, check_key
from raydiance.storage.quota import NoRoomError, Usage
from raydiance.storage.version import code_version

__all__ = ["DEFAULT_STORE", "Backend", "Store"]

DEFAULT_STORE = "outputs/store"
logger = logging.getLogger("raydiance.storage")


class Backend(Protocol):
    """What a place must do to hold artifacts; `LocalBackend` says what each method promises."""

    def check(self) -> None: ...

    def stage(self, token: str) -> Path: ...

    def commit(self, key: str, staging: Path, files: Sequence[FileEntry], manifest: bytes) -> None: ...

    def read_manifest(self, key: str) -> bytes: ...

    def fetch(self, key: str, manifest_sha256: str, entry: FileEntry) -> Path: ...

    def folder(self, key: str, manifest_sha256: str) -> Path: ...

    def keys(self, prefix: str) -> Iterator[str]: ...

    def delete(self, key: str) -> None: ...

    def garbage(self, older_than_s: float) -> Iterator[Garbage]: ...

    def collect(self, garbage: Garbage) -> None: ...

    def used(self) -> int: ...

    def __hash__(self) -> int: ...


@dataclass(frozen=True)
class Store:
    """Where artifacts live; made by `Store.open`. It is a name only, so it can be sent to any process.

    quota: the bytes that it may hold; what would go beyond is refused before it is written (storage.quota).
    """

    url: str
    quota: int | None = None

    @classmethod
    def open(cls, url: str | Path | None = None, quota: int | None = None) -> "Store":
        """The store at a folder, file:// or s3:// URL; without one, at RAYDIANCE_STORE or outputs/store.

        Raises StoreError within 10 s, in one line with the place, if it cannot be reached.
        """
        given = str(url or os.environ.get("RAYDIANCE_STORE") or DEFAULT_STORE)
        parts = urlsplit(given)
        if parts.scheme == "s3":
            store = cls(url=given.rstrip("/"), quota=quota)
        elif parts.scheme == "file":
            store = cls(url=str(Path(unquote(parts.path)).absolute()), quota=quota)
        elif "://" in given:
            raise StoreError(f"store {given!r}: give a folder, or s3://bucket/prefix")
        else:
            store = cls(url=str(Path(given).expanduser().absolute()), quota=quota)
        store.backend.check()
        return store

    @property
    def backend(self) -> Backend:
        """The place behind the URL, one per process and set of AWS_* variables."""
        environment = tuple(sorted(pair for pair in os.environ.items() if pair[0].startswith("AWS_")))
        return _backend(self.url, os.getpid(), environment)

    def used(self) -> int:
        """The bytes that it holds now; it is listed for that."""
        return self.backend.used()

    @contextmanager
    def create(
        self,
        kind: str,
        name: str,
        *,
        spec: object = None,
        seeds: Mapping[str, int] | None = None,
        parents: Sequence[ArtifactRef] = (),
        meta: Mapping[str, object] | None = None,
    ) -> Iterator[Draft]:
        """A draft to write files into; the artifact `<kind>/<name>-<token>` appears when the block ends well.

        After an exception nothing is left. `draft.meta` may be filled until the end of the block.
        """
        token = secrets.token_hex(4)
        key = check_key(f"{kind}/{name}-{token}")
        staging = self.backend.stage(f"{key.replace('/', '.')}")
        draft = Draft(key, kind, to_plain(spec), dict(seeds or {}), tuple(parents), dict(meta or {}), staging)
        try:
            yield draft
            draft._artifact = self._commit(draft)
        except Exception as error:
            if not _is_full(error):
                raise
            raise StoreError(
                f"store {self.url}: no room for {key} ({os.strerror(errno.ENOSPC)}); make room, for example with "
                "`raydiance gc`, or set RAYDIANCE_STORE to another place"
            ) from error
        finally:
            shutil.rmtree(staging, ignore_errors=True)

    def get(self, where: ArtifactRef | str) -> Artifact:
        """The artifact at a key, a full address within this store, or a reference (whose SHA-256 is checked).

        Raises ArtifactError if there is no manifest, or not the one meant.
        """
        key = where.key if isinstance(where, ArtifactRef) else self._key(where)
        data = self.backend.read_manifest(check_key(key))
        sha256 = hashlib.sha256(data).hexdigest()
        if isinstance(where, ArtifactRef) and sha256 != where.sha256:
            raise ArtifactError(
                f"{key}: expected the manifest with SHA-256 {where.sha256}, found {sha256}; "
                "the artifact is not the one that was referred to"
            )
        manifest = Manifest.from_bytes(data, key)
        return Artifact(ArtifactRef(kind=manifest.kind, key=key, sha256=sha256), manifest, self)

    def list(self, prefix: str = "") -> list[ArtifactRef]:
        """All artifacts under a kind, a folder of keys, or a name without its token; the newest is last.

        What has no readable manifest is left out, with a warning in the log.
        """
        return [artifact.ref for artifact in _artifacts(self, prefix)]

    def latest(self, prefix: str) -> Artifact | None:
        """The newest artifact under the prefix whose files are all intact; others are logged and skipped."""
        for artifact in reversed(_artifacts(self, prefix)):
            try:
                artifact.verify()
            except ArtifactError as error:
                logger.warning("passing over a broken artifact: %s", error)
            else:
                return artifact
        return None

    def delete(self, ref: ArtifactRef) -> None:
        """Remove an artifact for good. Raises ArtifactError if it is not there."""
        manifest = self.get(ref).manifest
        self.backend.delete(ref.key)
        if self.quota is not None:
            _usage(self.backend).freed(_size(manifest.files, manifest.to_bytes()))

    def garbage(self, older_than_s: float = 86_400.0) -> Sequence[Garbage]:
        """What killed writers left behind, oldest first. Nothing is removed: a dry run of `collect`.

        Give more time than any writer needs from its first file to its manifest.
        """
        return sorted(self.backend.garbage(older_than_s), key=lambda found: found.modified)

    def collect(self, garbage: Sequence[Garbage]) -> None:
        """Remove what `garbage` found."""
        for found in garbage:
            self.backend.collect(found)

    def fetch(self, ref: ArtifactRef, entry: FileEntry) -> Path:
        """One verified file of an artifact on this machine (`Artifact.path` is the usual way)."""
        return self.backend.fetch(ref.key, ref.sha256, entry)

    def folder(self, ref: ArtifactRef) -> Path:
        """The folder that `fetch` fills for this artifact (`Artifact.folder` is the usual way)."""
        return self.backend.folder(ref.key, ref.sha256)

    def _commit(self, draft: Draft) -> Artifact:
        manifest = Manifest(
            kind=draft.kind,
            key=draft.key,
            created=datetime.now(UTC).isoformat(timespec="microseconds"),
            code_version=code_version(),
            files=file_entries(draft.staging),
            spec=draft.spec,
            seeds=draft.seeds,
            parents=tuple(draft.parents),
            meta=to_plain(draft.meta),
        )
        data = manifest.to_bytes()
        with self._room_for(draft.key, _size(manifest.files, data)):
            self.backend.commit(draft.key, draft.staging, manifest.files, data)
        ref = ArtifactRef(kind=draft.kind, key=draft.key, sha256=hashlib.sha256(data).hexdigest())
        return Artifact(ref, manifest, self)

    @contextmanager
    def _room_for(self, key: str, size: int) -> Iterator[None]:
        if self.quota is None:
            yield
            return
        try:
            with _usage(self.backend).taking(size, self.quota):
                yield
        except NoRoomError as error:
            raise StoreError(
                f"store {self.url}: {key} asks for {size:,} bytes, and {error.used:,} of the quota of "
                f"{self.quota:,} are used; delete what is not needed (`raydiance gc` shows what killed writers "
                "left), or raise store.quota"
            ) from None

    def _key(self, where: str) -> str:
        if not where.startswith(("s3://", "file://", "/")):
            return where.strip("/")
        path = unquote(urlsplit(where).path) if where.startswith("file://") else where
        if not path.startswith(self.url + "/"):
            raise StoreError(f"{where}: not in the store {self.url}; open the store that holds it")
        return path[len(self.url) + 1 :].strip("/")


@lru_cache(maxsize=32)
def _backend(url: str, pid: int, environment: tuple[tuple[str, str], ...]) -> Backend:
    if url.startswith("s3://"):
        from raydiance.storage.s3 import S3Backend  # a second of imports that a folder does not need

        return S3Backend(url)
    return LocalBackend(Path(url))


@lru_cache(maxsize=32)
def _usage(backend: Backend) -> Usage:
    """What this process knows of the place behind it."""
    return Usage(backend.used)


def _size(files: Sequence[FileEntry], manifest: bytes) -> int:
    return len(manifest) + sum(entry.size for entry in files)


def _is_full(error: Exception) -> bool:
    """Whether there is no room. What libraries in Rust raise (safetensors) is no OSError, but names its number."""
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    return any(f"(os error {number})" in str(error) for number in (errno.ENOSPC, errno.EDQUOT))


def _artifacts(store: Store, prefix: str) -> list[Artifact]:
    prefix = prefix.strip("/")
    keys = [key for key in store.backend.keys(prefix) if _is_under(key, prefix)]
    with ThreadPoolExecutor(TRANSFERS) as pool:
        found = [artifact for artifact in pool.map(partial(_get_or_warn, store), keys) if artifact]
    return sorted(found, key=lambda artifact: (artifact.manifest.created, artifact.ref.key))


def _get_or_warn(store: Store, key: str) -> Artifact | None:
    try:
        return store.get(key)
    except ArtifactError as error:
        logger.warning("passing over a broken artifact: %s", error)
        return None


def _is_under(key: str, prefix: str) -> bool:
    return not prefix or key == prefix or key.startswith(prefix + "/") or key.rpartition("-")[0] == prefix
