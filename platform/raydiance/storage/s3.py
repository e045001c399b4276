"""Artifacts on S3: data objects first, checked, and the manifest last: half an artifact is never seen.

The usual variables say where and as whom: AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY,
AWS_REGION, AWS_PROFILE. Files that were read or written are kept, verified, under RAYDIANCE_CACHE, which is
~/.cache/raydiance if unset.
"""

import base64
import hashlib
import logging
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from aiobotocore.session import AioSession  # type: ignore[import-untyped]
from aiohttp import ClientPayloadError
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, PartialCredentialsError
from fsspec.asyn import sync
from s3fs import S3FileSystem

from raydiance.errors import ArtifactError, StoreError
from raydiance.storage.artifact import TRANSFERS
from raydiance.storage.cache import cache_root
from raydiance.storage.garbage import Garbage, old_folders
from raydiance.storage.local import verify_file
from raydiance.storage.manifest import MANIFEST_NAME, FileEntry

__all__ = ["S3Backend"]

PART_BYTES = 16 * 2**20
PROBE_S = 7.0
WRITE_PROBE_S = 20.0
PROBE = ".probe"
logger = logging.getLogger("raydiance.storage")


class S3Backend:
    """A prefix in a bucket. `url` is s3://bucket/prefix; see `LocalBackend` for what each method promises."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.root = url.removeprefix("s3://")
        self.bucket, _, self.prefix = self.root.partition("/")
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]+", self.bucket):
            raise StoreError(
                f"store {url!r}: give s3://bucket/prefix; {self.bucket!r} cannot be a bucket's name"
            )
        self._is_reached = False
        self._is_conditional: bool | None = None
        self._session = AioSession()  # shared, because it takes ten times as long to make as a client
        with self._errors("opened"):
            self.files = self._client(tries=2, connect_timeout=5)
            self.files.retries = (
                3  # times those two, so that a server that hangs is given up in a minute or two
            )

    def check(self) -> None:
        """Ask once for one name below the prefix. Raises StoreError within 10 s if that is refused."""
        if self._is_reached:
            return
        with self._errors("reached"):
            self._ask("list_objects_v2", timeout_s=PROBE_S, Bucket=self.bucket, Prefix=self.prefix, MaxKeys=1)
        self._is_reached = True

    def prove(self) -> bool:
        """Whether the server refuses a second create-only PUT, as AWS and Ceph do and rclone does not.

        Where it does not, two writers of one key would not be told apart; the random part of a key makes that
        unlikely. Raises StoreError within a minute if writing is refused.
        """
        key = f"{self.prefix}/{PROBE}".lstrip("/")
        put = partial(
            self._ask, "put_object", timeout_s=WRITE_PROBE_S, Bucket=self.bucket, Key=key, Body=b"raydiance"
        )
        with self._errors("written"):
            put()
            try:
                with _create_only():
                    put(IfNoneMatch="*")
            except FileExistsError:
                return True
        return False

    def stage(self, token: str) -> Path:
        """A new, empty folder beside the cache. Raises StoreError before any work if writing is refused."""
        if self._is_conditional is None:
            self._is_conditional = self.prove()
            logger.info("%s: create-only PUT is %s", self.url, "kept" if self._is_conditional else "ignored")
        folder = cache_root() / "staging" / token
        with _local_errors():
            folder.mkdir(parents=True)
        return folder

    def commit(self, key: str, staging: Path, files: Sequence[FileEntry], manifest: bytes) -> None:
        """Upload the files, see that the server has them in full, then put the manifest, create-only."""
        with self._errors(f"written ({key})"):
            _in_parallel(
                lambda entry: self._upload(staging / entry.name, f"{self.root}/{key}/{entry.name}", entry),
                files,
            )
            self._check_sizes(key, files)
            self._put_manifest(key, manifest)
        kept = self.folder(key, hashlib.sha256(manifest).hexdigest())
        with _local_errors():
            kept.parent.mkdir(parents=True, exist_ok=True)
            staging.rename(kept)

    def read_manifest(self, key: str) -> bytes:
        """The bytes of the artifact's manifest. Raises ArtifactError if there is none."""
        with self._errors(f"read ({key})"):
            try:
                return bytes(self.files.cat_file(f"{self.root}/{key}/{MANIFEST_NAME}"))
            except FileNotFoundError:
                self._check_bucket()
                raise ArtifactError(
                    f"{key}: no such artifact in the store {self.url} (it has no {MANIFEST_NAME})"
                ) from None

    def fetch(self, key: str, manifest_sha256: str, entry: FileEntry) -> Path:
        """The file, from the cache if an intact copy is there. Raises ArtifactError if it is broken."""
        return self._kept(f"{key}/{entry.name}", self.folder(key, manifest_sha256) / entry.name, entry)

    def pretrained(self, name: str, sha256: str) -> Path:
        """A file below the prefix that is no artifact's, by its checksum. Raises ArtifactError for another."""
        with self._errors(f"read ({name})"):
            size = int(self.files.info(f"{self.root}/{name}")["size"])
        kept = cache_root() / "pretrained" / sha256[:2] / sha256 / name
        return self._kept(name, kept, FileEntry(name=name, size=size, sha256=sha256))

    def _kept(self, name: str, kept: Path, entry: FileEntry) -> Path:
        """The object of this name at its place in the cache, fetched if it is not there as the entry says."""
        if kept.exists():
            try:
                verify_file(kept, entry, str(kept))
            except ArtifactError:
                kept.unlink()
            else:
                return kept
        with _local_errors():
            kept.parent.mkdir(parents=True, exist_ok=True)
            staged = kept.with_name(f".{kept.name}.{secrets.token_hex(4)}")
        try:
            # a file that is missing is told by verify_file
            with self._errors(f"read ({name})"), suppress(FileNotFoundError):
                self.files.get_file(
                    f"{self.root}/{name}", str(staged), chunksize=PART_BYTES, max_concurrency=4
                )
            verify_file(staged, entry, f"{self.url}/{name}")
            staged.replace(kept)
        finally:
            staged.unlink(missing_ok=True)
        return kept

    def folder(self, key: str, manifest_sha256: str) -> Path:
        """Named by the manifest's digest, so that a store that has moved keeps its cache."""
        return cache_root() / "artifacts" / manifest_sha256[:2] / manifest_sha256

    def keys(self, prefix: str) -> Iterator[str]:
        """The keys of all artifacts that begin with these characters, in no particular order."""
        above, _, beginning = f"{self.root}/{prefix}".rpartition("/")
        with self._errors("listed"):
            try:
                names = self.files.find(above, prefix=beginning)
            except FileNotFoundError:
                names = []
        for name in names:
            folder, _, file = name.rpartition("/")
            if file == MANIFEST_NAME and folder.startswith(f"{self.root}/"):
                yield folder[len(self.root) + 1 :]

    def delete(self, key: str) -> None:
        """Remove the artifact, its manifest first: no half of it is ever visible. Two may do so at once."""
        with self._errors(f"deleted ({key})"), suppress(FileNotFoundError):
            self.files.rm_file(f"{self.root}/{key}/{MANIFEST_NAME}")
            left = self.files.find(f"{self.root}/{key}")
            if left:
                self.files.rm(left)

    def garbage(self, older_than_s: float) -> Iterator[Garbage]:
        """Objects below no manifest, uploads cut off, and folders staged on this machine, older than that."""
        yield from old_folders((cache_root() / "staging").glob("*"), older_than_s)
        latest = time.time() - older_than_s
        with self._errors("listed"):
            objects = self.files.find(self.root, detail=True)
            uploads: dict[str, Any] = {}
            with suppress(FileNotFoundError):  # rclone's answer where there are none
                uploads = self.files.call_s3("list_multipart_uploads", Bucket=self.bucket, Prefix=self.prefix)
        artifacts = {name.rpartition("/")[0] for name in objects if name.endswith(f"/{MANIFEST_NAME}")}
        for name, facts in objects.items():
            if facts["type"] != "file":
                continue  # an empty prefix is listed as a folder
            modified = facts["LastModified"].timestamp()
            owned = any(str(parent) in artifacts for parent in PurePosixPath(name).parents)
            if not owned and name != f"{self.root}/{PROBE}" and modified <= latest:
                yield Garbage(name, facts["size"], modified)
        for upload in uploads.get("Uploads", []):
            if (modified := upload["Initiated"].timestamp()) <= latest:
                yield Garbage(upload["Key"], 0, modified, upload["UploadId"])

    def collect(self, garbage: Garbage) -> None:
        """Remove one piece of it."""
        with self._errors(f"cleaned of {garbage.where}"):
            if garbage.upload_id:
                upload = {"Bucket": self.bucket, "Key": garbage.where, "UploadId": garbage.upload_id}
                self.files.call_s3("abort_multipart_upload", **upload)
            elif garbage.where.startswith("/"):
                shutil.rmtree(garbage.where)
            else:
                self.files.rm_file(garbage.where)

    def used(self) -> int:
        """The bytes of all objects below the prefix; uploads that are under way are not seen."""
        with self._errors("listed"):
            return sum(int(facts["size"] or 0) for facts in self.files.find(self.root, detail=True).values())

    def _client(self, *, tries: int, **config: object) -> S3FileSystem:
        return S3FileSystem(
            session=self._session,
            skip_instance_cache=True,
            use_listings_cache=False,
            config_kwargs={"retries": {"mode": "standard", "total_max_attempts": tries}, **config},
        )

    def _ask(self, method: str, *, timeout_s: float, **arguments: object) -> None:
        """One request, tried once, given up in time."""
        client = self._client(tries=1, connect_timeout=timeout_s, read_timeout=timeout_s)
        client.retries = 1
        sync(client.loop, client._call_s3, method, timeout=timeout_s, **arguments)

    def _upload(self, path: Path, target: str, entry: FileEntry) -> None:
        # the server refuses a body that does not match; the parts of larger files carry checksums anyway
        whole = {"ContentMD5": _md5(path)} if entry.size < 2 * PART_BYTES else {}
        self.files.put_file(str(path), target, chunksize=PART_BYTES, max_concurrency=4, **whole)

    def _check_sizes(self, key: str, files: Sequence[FileEntry]) -> None:
        found = self.files.find(f"{self.root}/{key}", detail=True) if files else {}
        for entry in files:
            size = found.get(f"{self.root}/{key}/{entry.name}", {}).get("size")
            if size != entry.size:
                raise StoreError(
                    f"{self.url}/{key}/{entry.name}: sent {entry.size} bytes, found {size}; try again"
                )

    def _put_manifest(self, key: str, manifest: bytes) -> None:
        target = f"{self.root}/{key}/{MANIFEST_NAME}"
        try:
            with _create_only():
                self.files.pipe_file(target, manifest, mode="create")
        except FileExistsError:
            raise StoreError(f"{self.url}/{key}: someone else wrote this key; try again") from None
        if self.files.cat_file(target) != manifest:
            raise StoreError(f"{self.url}/{key}: the server's manifest is not the one sent; try again")

    def _check_bucket(self) -> None:
        self.files.call_s3("head_bucket", Bucket=self.bucket)

    @contextmanager
    def _errors(self, done: str) -> Iterator[None]:
        try:
            yield
        except StoreError:
            raise
        except (OSError, BotoCoreError, ClientError, ClientPayloadError, ValueError) as error:
            raise StoreError(f"store {self.url} could not be {done}: {self._cause(error)}") from error

    def _cause(self, error: BaseException) -> str:
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or "AWS"
        text = " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, TimeoutError):
            text = "nothing in time"
        if isinstance(error, NoCredentialsError | PartialCredentialsError):
            return f"no credentials for {endpoint}; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        if isinstance(error, PermissionError):
            return (
                f"{endpoint} refuses these keys for bucket {self.bucket!r} ({text}); "
                "check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and the policy"
            )
        if isinstance(error, FileNotFoundError):
            return f"{endpoint} has no bucket {self.bucket!r} ({text}); make it, or correct the store's URL"
        return f"no good answer from {endpoint} ({text}); check AWS_ENDPOINT_URL and that the server runs"


def _in_parallel(function: Callable[[FileEntry], None], files: Sequence[FileEntry]) -> None:
    with ThreadPoolExecutor(TRANSFERS) as pool:
        for _ in pool.map(function, files):
            pass


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return base64.b64encode(hashlib.file_digest(file, "md5").digest()).decode()


@contextmanager
def _create_only() -> Iterator[None]:
    """A refused create-only PUT is a FileExistsError, on servers (Ceph) that do not name the condition, too."""
    try:
        yield
    except OSError as error:
        response = getattr(error.__cause__, "response", {})
        if response.get("ResponseMetadata", {}).get("HTTPStatusCode") == 412:
            raise FileExistsError(str(error)) from error
        raise


@contextmanager
def _local_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StoreError(
            f"cache {cache_root()}: cannot be written ({error.strerror or error}); "
            "set RAYDIANCE_CACHE to another folder"
        ) from error
