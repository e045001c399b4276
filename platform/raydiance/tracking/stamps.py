"""What a file says about its own making: GLB, PNG and safetensors carry a stamp, a JSON pointer is one."""

import hashlib
import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from raydiance.errors import DataError
from raydiance.storage import ArtifactRef

__all__ = ["Stamp", "read_stamp"]

MAX_HEADER_BYTES = 64 * 2**20
MAX_COMMENT_BYTES, MAX_COMMENT_LINES = 65536, 16
EXIF_DESCRIPTION = 0x010E


@dataclass(frozen=True)
class Stamp:
    """The artifact a file was made from, its store where the file says so, and how the file was made."""

    ref: ArtifactRef
    store: str | None
    facts: Mapping[str, Any]


def read_stamp(path: Path) -> Stamp:
    """The stamp of a GLB (asset.extras.raydiance), PNG (text chunk "raydiance"), safetensors file (metadata
    "raydiance"), MP4 (comment), WebP (Exif), PLY or OBJ (comment), JSON pointer of a stage, or manifest.
    Raises DataError if there is none.
    """
    readers = {
        ".glb": _from_glb,
        ".json": _from_json,
        ".mp4": _from_mp4,
        ".obj": _from_lines,
        ".ply": _from_lines,
        ".png": _from_png,
        ".safetensors": _from_safetensors,
        ".webp": _from_webp,
    }
    try:
        reader = readers[path.suffix.lower()]
    except KeyError:
        raise DataError(
            f"{path}: no stamp is kept in {path.suffix or 'such'} files; give {', '.join(readers)}"
        ) from None
    try:
        plain = reader(path)
        plain = plain.get("raydiance", plain)
        key = plain.get("bundle") or plain["key"]
        ref = ArtifactRef(kind=key.rpartition("/")[0], key=key, sha256=plain["sha256"])
    except (OSError, KeyError, TypeError, AttributeError, ValueError, struct.error) as error:
        cause = error.strerror if isinstance(error, OSError) and error.strerror else repr(error)
        raise DataError(f"{path}: carries no stamp of Raydiance ({cause})") from error
    facts = {
        name: value
        for name, value in plain.items()
        if name not in ("bundle", "kind", "key", "sha256", "store")
    }
    return Stamp(ref, plain.get("store"), facts)


def _from_glb(path: Path) -> Any:
    with path.open("rb") as file:
        magic, _, _, length, kind = struct.unpack("<4sII I4s", file.read(20))
        if magic != b"glTF" or kind != b"JSON":
            raise ValueError("not a GLB file")
        return json.loads(_read_header(file.read, length))["asset"]["extras"]["raydiance"]


def _from_safetensors(path: Path) -> Any:
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        return json.loads(json.loads(_read_header(file.read, length))["__metadata__"]["raydiance"])


def _from_png(path: Path) -> Any:
    from PIL import Image, PngImagePlugin

    with Image.open(path, formats=["PNG"]) as image:
        assert isinstance(image, PngImagePlugin.PngImageFile)
        return json.loads(image.text["raydiance"])


def _from_webp(path: Path) -> Any:
    from PIL import Image

    with Image.open(path, formats=["WEBP"]) as image:
        return json.loads(image.getexif()[EXIF_DESCRIPTION])


def _from_lines(path: Path) -> Any:
    """From the comment "raydiance {...}" among the first lines."""
    with path.open("rb") as file:
        head = file.read(MAX_COMMENT_BYTES).split(b"\n")[:MAX_COMMENT_LINES]
    (line,) = [line for line in head if line.startswith((b"# raydiance ", b"comment raydiance "))]
    return json.loads(line.partition(b"raydiance ")[2])


def _from_mp4(path: Path) -> Any:
    """From moov/udta/meta/ilst/(c)cmt/data, where players look for a comment."""
    with path.open("rb") as file:
        offset, size = 0, path.stat().st_size
        for name in (b"moov", b"udta", b"meta", b"ilst", b"\xa9cmt", b"data"):
            offset, size = _box(file, offset, size, name)
            if name == b"meta":
                offset, size = offset + 4, size - 4  # version and flags
        file.seek(offset + 8)  # type and locale
        return json.loads(_read_header(file.read, size - 8))


def _box(file: BinaryIO, offset: int, size: int, name: bytes) -> tuple[int, int]:
    """Offset and size of the contents of the box of this name among those in a range of the file."""
    end = offset + size
    while offset + 8 <= end:
        file.seek(offset)
        length, kind = struct.unpack(">I4s", file.read(8))
        if kind == name:
            return offset + 8, length - 8
        if length < 8:
            break
        offset += length
    raise ValueError(f"no box {name!r}")


def _from_json(path: Path) -> Any:
    data = path.read_bytes()
    plain = json.loads(data)
    if "format_version" in plain:  # a manifest: its reference is its own digest
        return {"key": plain["key"], "sha256": hashlib.sha256(data).hexdigest()}
    return plain


def _read_header(read: Any, length: int) -> bytes:
    if length > MAX_HEADER_BYTES:
        raise ValueError(f"a header of {length} bytes")
    return bytes(read(length))
