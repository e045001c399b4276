"""Where meshes come from: a folder, a file or an address; listed first, then brought here one at a time."""

import os
import re
import tempfile
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Protocol
from urllib.parse import unquote, urlsplit

import fsspec

from raydiance.data.meshes import COMPANION_SUFFIXES, MESH_SUFFIXES
from raydiance.errors import ConfigError, DataError

__all__ = ["Entry", "Source", "open_source"]

# Files that hold meshes or archives of them, and are not read: they are told of, other files are passed over.
OTHERS = (
    *(
        ".gltf",
        ".fbx",
        ".dae",
        ".3ds",
        ".3mf",
        ".off",
        ".blend",
        ".usd",
        ".usda",
        ".usdc",
        ".usdz",
        ".abc",
        ".x3d",
    ),
    *(".zip", ".gz", ".bz2", ".xz", ".tar", ".tgz", ".7z", ".rar"),
)
MAX_ENTRIES = 1_000_000
TIMEOUT_S = 30.0
PIECE = 1 << 20


@dataclass(frozen=True)
class Entry:
    """One file of a source: its name there, with folders, and its size (None if only reading it tells)."""

    name: str
    size: int | None

    @property
    def category(self) -> str:
        """The first folder of the name, or "object" without one."""
        parts = PurePosixPath(self.name).parts
        return parts[0] if len(parts) > 1 else "object"


class Source(Protocol):
    """Lists files and brings one of them to this machine while a block runs."""

    def entries(self) -> list[Entry]:
        """Everything that looks like a mesh or an archive, sorted by name."""

    def local(self, entry: Entry) -> Any:
        """A context manager that gives the path of the file on this machine."""


def open_source(address: str, *, file_bytes: int, total_bytes: int, allowed_hosts: Sequence[str]) -> Source:
    """The source at a path or URL. Raises ConfigError for an address that is not allowed, DataError for none.

    file_bytes: no single file is downloaded beyond this; total_bytes: nor all of them together.
    """
    parts = urlsplit(address)
    if "://" not in address or parts.scheme == "file":
        return FolderSource(Path(unquote(parts.path) if parts.scheme == "file" else address).expanduser())
    if parts.scheme == "s3":
        return RemoteSource(address.rstrip("/"), file_bytes, Allowance(total_bytes))
    if parts.scheme in ("http", "https"):
        if parts.hostname not in allowed_hosts:
            raise ConfigError(
                f"ingest.source {address}: the host {parts.hostname} is not in ingest.allowed_hosts "
                f"({', '.join(allowed_hosts) or 'empty'}); add it there if you trust it"
            )
        return WebSource(address, min(file_bytes, total_bytes))
    raise ConfigError(
        f"ingest.source {address}: {parts.scheme}:// is not read; "
        'give "procedural:furniture", a folder, a file, or an s3://, file://, http:// or https:// URL'
    )


@dataclass
class Allowance:
    """Bytes that may still be downloaded."""

    left: int

    def spend(self, size: int) -> None:
        """Counts bytes. DataError when they are used up."""
        self.left -= size
        if self.left < 0:
            raise DataError("not read: ingest.download_bytes is used up")


@dataclass(frozen=True)
class FolderSource:
    """A folder with everything below it, or one file."""

    root: Path

    def __post_init__(self) -> None:
        if not self.root.exists():
            raise DataError(f"ingest.source {self.root}: no such file or folder")

    def entries(self) -> list[Entry]:
        if not self.root.is_dir():
            return [Entry(self.root.name, self.root.stat().st_size)]
        paths = (path for path in self.root.rglob("*") if _is_told_of(path.name) and not path.is_dir())
        names = sorted(path.relative_to(self.root).as_posix() for path in paths)
        return [Entry(name, None) for name in names]

    @contextmanager
    def local(self, entry: Entry) -> Iterator[Path]:
        root = self.root if self.root.is_dir() else self.root.parent
        path = root / entry.name
        if not path.resolve().is_relative_to(root.resolve()):
            raise DataError("is a link to a place outside the source")
        yield path


class RemoteSource:
    """A prefix, or one object, in a bucket; the materials and pictures below an OBJ's folder come with it.

    The usual AWS_* variables say where the server is and who asks.
    """

    def __init__(self, url: str, file_bytes: int, allowance: Allowance) -> None:
        self.url, self.file_bytes, self.allowance = url, file_bytes, allowance
        self.root = url.removeprefix("s3://")
        self.sizes: dict[str, int] = {}
        options = {"connect_timeout": 5, "read_timeout": 20, "retries": {"total_max_attempts": 1}}
        self.files = fsspec.filesystem("s3", skip_instance_cache=True, config_kwargs=options)

    def entries(self) -> list[Entry]:
        self.files.retries = 1  # a server that is not there is told of at once
        try:
            found = self.files.find(self.root, detail=True)
        except Exception as error:
            raise DataError(
                f"ingest.source {self.url}: cannot be listed at {_endpoint()}: {_one_line(error)}; "
                "check the address and the AWS_* variables"
            ) from error
        self.files.retries = 4
        if len(found) > MAX_ENTRIES:
            raise DataError(
                f"ingest.source {self.url}: more than {MAX_ENTRIES} files; choose a smaller prefix"
            )
        for path, facts in found.items():
            name = path.removeprefix(self.root).strip("/") or PurePosixPath(path).name
            self.sizes[name] = int(facts["size"])
        return [Entry(name, self.sizes[name]) for name in sorted(self.sizes) if _is_told_of(name)]

    @contextmanager
    def local(self, entry: Entry) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(prefix="raydiance-") as folder:
            top = PurePosixPath(entry.name).parent
            for name in (entry.name, *self._companions(entry.name)):
                relative = PurePosixPath(name).relative_to(top)
                if ".." in relative.parts or relative.is_absolute():
                    raise DataError(f"has a name that leads out of its folder: {name[:80]!r}")
                self._download(name, Path(folder, relative))
            yield Path(folder, PurePosixPath(entry.name).name)

    def _companions(self, name: str) -> list[str]:
        path = PurePosixPath(name)
        if path.suffix.lower() != ".obj":
            return []
        others = (PurePosixPath(other) for other in self.sizes)
        return [
            str(o) for o in others if o.suffix.lower() in COMPANION_SUFFIXES and o.is_relative_to(path.parent)
        ]

    def _download(self, name: str, path: Path) -> None:
        if self.sizes[name] > self.file_bytes:
            raise DataError(
                f"{name} has {self.sizes[name]} bytes, more than limits.file_bytes = {self.file_bytes}"
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        address = self.root if self.root.endswith(f"/{name}") else f"{self.root}/{name}"
        try:
            with self.files.open(address, "rb") as stream, path.open("wb") as out:
                _copy(stream, out, self.file_bytes, self.allowance)
        except OSError as error:
            raise DataError(f"cannot be downloaded: {_one_line(error)}") from error


@dataclass(frozen=True)
class WebSource:
    """One file at an http(s) address; it must answer itself, not send us elsewhere."""

    url: str
    file_bytes: int

    def entries(self) -> list[Entry]:
        return [Entry(PurePosixPath(unquote(urlsplit(self.url).path)).name or "object", None)]

    @contextmanager
    def local(self, entry: Entry) -> Iterator[Path]:
        opener = urllib.request.build_opener(_NoRedirect, urllib.request.ProxyHandler({}))
        with tempfile.TemporaryDirectory(prefix="raydiance-") as folder:
            path = Path(folder, re.sub(r"[^A-Za-z0-9._-]", "_", entry.name))
            try:
                with opener.open(self.url, timeout=TIMEOUT_S) as stream, path.open("wb") as out:
                    _copy(stream, out, self.file_bytes, Allowance(self.file_bytes))
            except OSError as error:
                raise DataError(f"cannot be downloaded: {_one_line(error)}") from error
            yield path


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *args: Any) -> None:
        raise DataError("the server sends us to another address, which is refused; give the final address")


def _endpoint() -> str:
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or "AWS"


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _copy(stream: Any, out: Any, file_bytes: int, allowance: Allowance) -> None:
    size = 0
    while piece := stream.read(PIECE):
        size += len(piece)
        if size > file_bytes:
            raise DataError(f"has more than {file_bytes} bytes (limits.file_bytes)")
        allowance.spend(len(piece))
        out.write(piece)


def _is_told_of(name: str) -> bool:
    return PurePosixPath(name).suffix.lower() in (*MESH_SUFFIXES, *OTHERS)
