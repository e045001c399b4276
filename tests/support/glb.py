"""Makes small GLB files byte by byte, right ones and wrong ones."""

import json
import struct
from typing import Any

import numpy as np

TYPES = {np.dtype("<f4"): 5126, np.dtype("<u2"): 5123, np.dtype("<u4"): 5125, np.dtype("u1"): 5121}
TRIANGLE = np.array([(0, 0, 0), (1, 0, 0), (0, 1, 0)], "<f4")


def pack(document: dict[str, Any], binary: bytes = b"") -> bytes:
    """A GLB file out of its two chunks."""
    text = json.dumps(document).encode()
    text += b" " * (-len(text) % 4)
    binary += b"\0" * (-len(binary) % 4)
    body = struct.pack("<II", len(text), 0x4E4F534A) + text
    if binary:
        body += struct.pack("<II", len(binary), 0x004E4942) + binary
    return struct.pack("<4sII", b"glTF", 2, 12 + len(body)) + body


class Builder:
    """Collects arrays and pictures; `document` is the JSON that one may change before packing."""

    def __init__(self) -> None:
        self.binary = b""
        self.document: dict[str, Any] = {
            "asset": {"version": "2.0"},
            "scene": 0,
            "scenes": [{"nodes": [0]}],
            "nodes": [{"mesh": 0}],
            "meshes": [{"primitives": []}],
            "accessors": [],
            "bufferViews": [],
        }

    def view(self, data: bytes, **more: Any) -> int:
        self.binary += b"\0" * (-len(self.binary) % 4)
        place = {"buffer": 0, "byteOffset": len(self.binary), "byteLength": len(data), **more}
        self.document["bufferViews"].append(place)
        self.binary += data
        return len(self.document["bufferViews"]) - 1

    def accessor(self, array: np.ndarray, **more: Any) -> int:
        kind = {1: "SCALAR", 2: "VEC2", 3: "VEC3", 4: "VEC4"}[1 if array.ndim == 1 else array.shape[1]]
        entry = {
            "bufferView": self.view(array.tobytes()),
            "componentType": TYPES[array.dtype],
            "count": len(array),
            "type": kind,
            **more,
        }
        self.document["accessors"].append(entry)
        return len(self.document["accessors"]) - 1

    def primitive(
        self, positions: np.ndarray = TRIANGLE, indices: np.ndarray | None = None, **more: Any
    ) -> dict:
        attributes = {"POSITION": self.accessor(np.asarray(positions, "<f4"))}
        entry: dict[str, Any] = {"attributes": attributes, **more}
        if indices is not None:
            entry["indices"] = self.accessor(np.asarray(indices, "<u2").reshape(-1))
        self.document["meshes"][0]["primitives"].append(entry)
        return entry

    def pack(self) -> bytes:
        document = dict(self.document)
        if self.binary:
            document.setdefault("buffers", [{"byteLength": len(self.binary)}])
        return pack(document, self.binary)


def simple() -> bytes:
    """A file with one triangle."""
    builder = Builder()
    builder.primitive()
    return builder.pack()
