"""Manifests: the small file that makes a folder an artifact, and the reference that names one for ever."""

import hashlib
import json
import os
import re
import secrets
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from raydiance.errors import ArtifactError, StoreError
from raydiance.spec import canonical_json, from_plain, spec, to_plain

__all__ = [
    "FORMAT_VERSION",
    "MANIFEST_NAME",
    "ArtifactRef",
    "FileEntry",
    "Manifest",
    "check_file_name",
    "check_key",
    "file_sha256",
    "write_json",
]

FORMAT_VERSION = 1
MANIFEST_NAME = "manifest.json"

_SEGMENT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._=+@-]*")


@spec
class ArtifactRef:
    """Names one artifact for ever: `key` is relative to its store, so that a store can be moved; `sha256` is
    that of the bytes of its manifest, so that nothing can take its place."""

    kind: str
    key: str
    sha256: str


@spec
class FileEntry:
    """One file of an artifact: its name inside the artifact, its size in bytes and its SHA-256."""

    name: str
    size: int
    sha256: str


@spec
class Manifest:
    """What an artifact is: its files, the spec, seeds and code that made it, and what it was made from."""

    format_version: int = FORMAT_VERSION
    kind: str
    key: str
    created: str
    code_version: str
    files: tuple[FileEntry, ...]
    spec: Any = None
    seeds: Mapping[str, int]
    parents: tuple[ArtifactRef, ...] = ()
    meta: Mapping[str, Any]

    def to_bytes(self) -> bytes:
        """The bytes of manifest.json: one text for one manifest."""
        return (json.dumps(to_plain(self), sort_keys=True, indent=1, allow_nan=False) + "\n").encode()

    @classmethod
    def from_bytes(cls, data: bytes, key: str) -> "Manifest":
        """The manifest found at `key`. Raises ArtifactError if it is not one, or speaks of another key."""
        try:
            plain = json.loads(data)
            version = plain.pop("format_version")
            if version != FORMAT_VERSION:
                raise ArtifactError(
                    f"{key}: manifest of format {version!r}, this Raydiance reads format {FORMAT_VERSION}; "
                    "use the Raydiance that wrote it"
                )
            manifest = from_plain(cls, plain, MANIFEST_NAME)
            for entry in manifest.files:
                check_file_name(entry.name)
        except (AttributeError, KeyError, TypeError, ValueError, StoreError) as error:
            if isinstance(error, ArtifactError):
                raise
            raise ArtifactError(
                f"{key}: its {MANIFEST_NAME} cannot be read ({error!r}); delete the artifact"
            ) from error
        if manifest.key != key:
            raise ArtifactError(f"{key}: its {MANIFEST_NAME} is that of {manifest.key!r}; delete this copy")
        return manifest


def check_key(key: str) -> str:
    """The key, if each of its segments is a plain name. Raises ArtifactError otherwise."""
    if not all(_SEGMENT.fullmatch(segment) for segment in key.split("/")):
        raise ArtifactError(
            f"key {key!r}: between slashes, use letters, digits and . _ = + @ - only, "
            "and begin with a letter, a digit or _"
        )
    return key


def check_file_name(name: str) -> str:
    """The name, if it stays inside its artifact. Raises StoreError otherwise."""
    path = PurePosixPath(name)
    plain = bool(name) and "\\" not in name and "\0" not in name and str(path) == name
    if not plain or path.is_absolute() or ".." in path.parts or path.name in (MANIFEST_NAME, ""):
        raise StoreError(
            f"file name {name!r}: must be a relative path inside the artifact, and not {MANIFEST_NAME}"
        )
    return name


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes, as 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_json(path: Path, value: object) -> None:
    """Write a value as JSON with sorted keys, whole or not at all (a rename within the folder)."""
    text = json.dumps(json.loads(canonical_json(value)), sort_keys=True, indent=1)
    path.parent.mkdir(parents=True, exist_ok=True)
    staged = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with staged.open("w", encoding="utf-8") as file:
            file.write(text + "\n")
            file.flush()
            os.fsync(file.fileno())
        staged.replace(path)
    finally:
        staged.unlink(missing_ok=True)
