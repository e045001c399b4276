"""Reads binary glTF 2.0 (GLB) within limits: triangles, node transforms, base colours and their textures.

Everything must be inside the file: a URI to anything else is refused. What is not about shape and base colour
(skins, animation, other textures) is passed over. Counts are checked before anything of that size is made.
"""

import base64
import binascii
import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raydiance.data.meshes import Bytes, Mesh, MeshLimits, merge
from raydiance.data.pictures import PictureBudget, encode_srgb
from raydiance.errors import DataError

__all__ = ["read_glb"]

Array = NDArray[Any]
Json = dict[str, Any]

JSON_CHUNK, BIN_CHUNK = 0x4E4F534A, 0x004E4942
COMPONENTS = {5120: "<i1", 5121: "<u1", 5122: "<i2", 5123: "<u2", 5125: "<u4", 5126: "<f4"}
WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4}
TRIANGLES, STRIP, FAN = 4, 5, 6
KNOWN = (
    "KHR_materials_",
    "KHR_texture_transform",
    "KHR_mesh_quantization",
    "KHR_lights_punctual",
    "EXT_texture_webp",
)
Y_UP_TO_Z_UP = np.array(((1, 0, 0), (0, 0, -1), (0, 1, 0)), np.float64)


def read_glb(data: bytes, limits: MeshLimits) -> Mesh:
    """The default scene as one mesh, +Z up. Raises DataError with the reason if it is not to be read."""
    document, binary = _chunks(data)
    try:
        return _Reader(document, binary, limits).scene()
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, OverflowError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"broken glTF: {type(error).__name__}: {error}") from error


def _chunks(data: bytes) -> tuple[Json, memoryview]:
    """The JSON document and the binary chunk."""
    if len(data) < 20 or data[:4] != b"glTF":
        raise DataError("no GLB file: it does not begin with 'glTF'")
    version, length = struct.unpack_from("<II", data, 4)
    if version != 2:
        raise DataError(f"glTF version {version}, only version 2 is read")
    if length > len(data):
        raise DataError(f"truncated: {len(data)} of {length} bytes")
    chunks: dict[int, memoryview] = {}
    offset, view = 12, memoryview(data)
    while offset + 8 <= length:
        size, kind = struct.unpack_from("<II", data, offset)
        if offset + 8 + size > length:
            raise DataError("truncated: a chunk goes beyond the end of the file")
        chunks.setdefault(kind, view[offset + 8 : offset + 8 + size])
        offset += 8 + size
    try:
        document = json.loads(bytes(chunks.get(JSON_CHUNK, b"")))
    except (ValueError, RecursionError) as error:
        raise DataError(f"broken glTF: its JSON cannot be read: {error}") from error
    if not isinstance(document, dict):
        raise DataError("broken glTF: its JSON is no object")
    return document, chunks.get(BIN_CHUNK, memoryview(b""))


@dataclass(frozen=True)
class _Material:
    """Base colour: linear factor [4], picture and which texture coordinates it uses."""

    factor: Array
    picture: Bytes | None
    texture: Json


class _Reader:
    def __init__(self, document: Json, binary: memoryview, limits: MeshLimits) -> None:
        self.document, self.binary, self.limits = document, binary, limits
        self.budget = PictureBudget(limits)
        self.buffers: dict[int, memoryview] = {}
        self.pictures: dict[tuple[int, str, float], Bytes] = {}
        self.materials: dict[int | None, _Material] = {}
        self.num_faces = 0

    def scene(self) -> Mesh:
        self._check_document()
        parts = [
            self._primitive(primitive, Y_UP_TO_Z_UP @ transform)
            for mesh_index, transform in self._instances()
            for primitive in self.document["meshes"][mesh_index]["primitives"]
            if primitive.get("mode", TRIANGLES) in (TRIANGLES, STRIP, FAN)
        ]
        if not parts:
            raise DataError("the scene has no triangles")
        return merge(parts)

    def _check_document(self) -> None:
        """Refuses what is too much, what lies elsewhere, and what cannot be understood."""
        limit = self.limits.scene_nodes
        for name in ("nodes", "meshes", "materials"):
            if len(self.document.get(name, [])) > limit:
                raise DataError(f"more than {limit} {name}; raise limits.scene_nodes to read it")
        for name in ("buffers", "images"):
            for item in self.document.get(name, []):
                uri = item.get("uri", "data:")
                if not uri.startswith("data:"):
                    raise DataError(f"refers to {uri[:80]!r} outside itself; pack everything into the GLB")
        for extension in self.document.get("extensionsRequired", []):
            if not extension.startswith(KNOWN):
                raise DataError(f"needs the glTF extension {extension}, which is not read; export it without")

    def _instances(self) -> Iterator[tuple[int, Array]]:
        """(mesh, transform [3, 4]) for each node of the default scene that has a mesh."""
        nodes = self.document.get("nodes", [])
        scenes = self.document.get("scenes", [])
        if scenes:
            roots = scenes[self.document.get("scene", 0)].get("nodes", [])
        else:
            children = {child for node in nodes for child in node.get("children", [])}
            roots = [index for index in range(len(nodes)) if index not in children]
        stack = [(index, np.eye(4)) for index in reversed(roots)]
        visited = 0
        while stack:
            index, above = stack.pop()
            visited += 1
            if visited > self.limits.scene_nodes:  # also the end of a cycle
                raise DataError(
                    f"more than {self.limits.scene_nodes} nodes in the scene, or nodes in a circle; "
                    "raise limits.scene_nodes to read a large scene"
                )
            node = nodes[_index(index)]
            transform = above @ _local(node)
            if "mesh" in node:
                yield _index(node["mesh"]), transform[:3]
            stack += [(child, transform) for child in reversed(node.get("children", []))]

    def _primitive(self, primitive: Json, transform: Array) -> Mesh:
        attributes = primitive["attributes"]
        positions = self._accessor(attributes["POSITION"], "VEC3").astype(np.float64)
        order = (
            self._accessor(primitive["indices"], "SCALAR")[:, 0].astype(np.int64)
            if "indices" in primitive
            else np.arange(len(positions))
        )
        faces = _triangles(order, primitive.get("mode", TRIANGLES))
        self.num_faces += len(faces)
        if self.num_faces > self.limits.faces:
            raise DataError(f"more than {self.limits.faces} faces; raise limits.faces to read it")
        if len(faces) and faces.max() >= len(positions):
            raise DataError(f"broken glTF: index {faces.max()} of {len(positions)} vertices")
        if np.linalg.det(transform[:, :3]) < 0:
            faces = faces[:, ::-1]
        material = self._material(primitive.get("material"))
        colours = np.ones((len(positions), 4))
        if "COLOR_0" in attributes:
            given = self._accessor(attributes["COLOR_0"], None)
            colours[:, : given.shape[1]] = given
        colours = np.clip(colours * material.factor, 0, 1)
        rgba = np.concatenate((encode_srgb(colours[:, :3]), colours[:, 3:]), axis=1)
        flat = Mesh.flat(positions @ transform[:, :3].T + transform[:, 3], faces, (0, 0, 0))
        mesh = Mesh(
            flat.vertices, flat.faces, np.round(rgba * 255).astype(np.uint8), flat.uv, flat.face_texture
        )
        name = f"TEXCOORD_{_texture_transform(material.texture).get('texCoord', 0)}"
        if material.picture is None or name not in attributes:
            return mesh
        uv = _moved_uv(self._accessor(attributes[name], "VEC2").astype(np.float64), material.texture)
        return Mesh(
            *(mesh.vertices, mesh.faces, mesh.colours),
            *(uv[mesh.faces].astype(np.float32), np.zeros(len(faces), np.int32), (material.picture,)),
        )

    def _accessor(self, index: int, kind: str | None) -> Array:
        """The values of an accessor [count, width]; integers that stand for fractions as fractions."""
        accessor = self.document["accessors"][_index(index)]
        count, width = _index(accessor["count"]), WIDTHS[accessor["type"]]
        if kind is not None and accessor["type"] != kind:
            raise DataError(f"broken glTF: an accessor of type {accessor['type']} where {kind} is needed")
        if count > 3 * self.limits.faces:
            raise DataError(f"{count} values in one array, the limit is 3 x {self.limits.faces} faces")
        dtype = np.dtype(COMPONENTS[accessor["componentType"]])
        values = self._values(accessor, dtype, count, width)
        if "sparse" in accessor:
            sparse = accessor["sparse"]
            changed = _index(sparse["count"])
            where = np.dtype(COMPONENTS[sparse["indices"]["componentType"]])
            rows = self._values(sparse["indices"], where, changed, 1)[:, 0]
            values = values.copy()
            values[rows] = self._values(sparse["values"], dtype, changed, width)
        if accessor.get("normalized") and dtype.kind in "iu":
            return np.maximum(values / np.iinfo(dtype).max, -1.0)
        return values

    def _values(self, where: Json, dtype: "np.dtype[Any]", count: int, width: int) -> Array:
        if "bufferView" not in where:
            return np.zeros((count, width), dtype)
        view = self.document["bufferViews"][_index(where["bufferView"])]
        data = self._slice(view)
        offset, stride = _index(where.get("byteOffset", 0)), _index(view.get("byteStride", 0))
        stride = stride or width * dtype.itemsize
        if count and offset + (count - 1) * stride + width * dtype.itemsize > len(data):
            raise DataError("broken glTF: an array goes beyond the end of its buffer")
        return np.ndarray((count, width), dtype, data, offset, (stride, dtype.itemsize))

    def _slice(self, view: Json) -> memoryview:
        """The bytes of a buffer view."""
        number = _index(view["buffer"])
        if number not in self.buffers:
            buffer = self.document["buffers"][number]
            self.buffers[number] = memoryview(_inline(buffer["uri"])) if "uri" in buffer else self.binary
        start = _index(view.get("byteOffset", 0))
        stop = start + _index(view["byteLength"])
        if stop > len(self.buffers[number]):
            raise DataError("broken glTF: a buffer view goes beyond the end of its buffer")
        return self.buffers[number][start:stop]

    def _material(self, index: int | None) -> _Material:
        if index in self.materials:
            return self.materials[index]
        material = self.document["materials"][_index(index)] if index is not None else {}
        base = material.get("pbrMetallicRoughness", {})
        factor, texture = base.get("baseColorFactor"), base.get("baseColorTexture", {})
        gloss = material.get("extensions", {}).get("KHR_materials_pbrSpecularGlossiness")
        if gloss is not None:
            factor, texture = gloss.get("diffuseFactor"), gloss.get("diffuseTexture", {})
        linear = np.ones(4) if factor is None else np.asarray(factor, np.float64).reshape(4)
        mode, cutoff = material.get("alphaMode", "OPAQUE"), float(material.get("alphaCutoff", 0.5))
        if mode != "BLEND":
            linear = linear * (1, 1, 1, 0) + (0, 0, 0, 1)
        picture = self._picture(_index(texture["index"]), mode, cutoff) if "index" in texture else None
        self.materials[index] = _Material(linear, picture, texture)
        return self.materials[index]

    def _picture(self, index: int, mode: str, cutoff: float) -> Bytes | None:
        """The picture of a texture, its alpha as the material wants it."""
        texture = self.document["textures"][index]
        source = texture.get("extensions", {}).get("EXT_texture_webp", texture).get("source")
        if source is None:
            return None
        key = (_index(source), mode, cutoff)
        if key not in self.pictures:
            image = self.document["images"][key[0]]
            if "uri" in image:
                data = _inline(image["uri"])
            else:
                data = bytes(self._slice(self.document["bufferViews"][_index(image["bufferView"])]))
            picture = self.budget.decode(data)
            if mode == "OPAQUE":
                picture[..., 3] = 255
            elif mode == "MASK":
                picture[..., 3] = np.where(picture[..., 3] >= cutoff * 255, 255, 0)
            self.pictures[key] = picture
        return self.pictures[key]


def _index(value: object) -> int:
    """A whole number >= 0, or DataError: numpy would take -1 for the last one."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise DataError(f"broken glTF: {value!r} where a whole number >= 0 is needed")
    return value


def _inline(uri: str) -> bytes:
    """The bytes of a data: URI."""
    head, _, body = uri.partition(",")
    if not head.endswith(";base64"):
        raise DataError("broken glTF: a data URI that is not base64")
    try:
        return base64.b64decode(body, validate=True)
    except binascii.Error as error:
        raise DataError(f"broken glTF: a data URI that is not base64: {error}") from error


def _local(node: Json) -> Array:
    """The node's transform [4, 4]: its matrix, or translation, rotation (x, y, z, w) and scale."""
    if "matrix" in node:
        return np.asarray(node["matrix"], np.float64).reshape(4, 4).T
    x, y, z, w = np.asarray(node.get("rotation", (0, 0, 0, 1)), np.float64)
    length = x * x + y * y + z * z + w * w
    if not length > 0:
        raise DataError("broken glTF: a rotation of length 0")
    s = 2 / length
    rotation = np.array(
        (
            (1 - s * (y * y + z * z), s * (x * y - z * w), s * (x * z + y * w)),
            (s * (x * y + z * w), 1 - s * (x * x + z * z), s * (y * z - x * w)),
            (s * (x * z - y * w), s * (y * z + x * w), 1 - s * (x * x + y * y)),
        )
    )
    transform = np.eye(4)
    transform[:3, :3] = rotation * np.asarray(node.get("scale", (1, 1, 1)), np.float64).reshape(3)
    transform[:3, 3] = np.asarray(node.get("translation", (0, 0, 0)), np.float64).reshape(3)
    return transform


def _triangles(order: Array, mode: int) -> Array:
    """Triangles [F, 3] out of the indices of a list, a strip or a fan."""
    if mode == TRIANGLES:
        return order[: len(order) // 3 * 3].reshape(-1, 3)
    if len(order) < 3:
        return np.zeros((0, 3), np.int64)
    if mode == FAN:
        return np.stack((np.full(len(order) - 2, order[0]), order[1:-1], order[2:]), axis=-1)
    faces = np.stack((order[:-2], order[1:-1], order[2:]), axis=-1)
    faces[1::2] = faces[1::2, (1, 0, 2)]
    return faces


def _texture_transform(texture: Json) -> Json:
    """What KHR_texture_transform says, or what the texture says without it."""
    change: Json = texture.get("extensions", {}).get("KHR_texture_transform", {})
    return {"texCoord": texture.get("texCoord", 0), **change}


def _moved_uv(uv: Array, texture: Json) -> Array:
    """Texture coordinates after KHR_texture_transform."""
    change = _texture_transform(texture)
    angle = float(change.get("rotation", 0.0))
    turn = np.array(((np.cos(angle), np.sin(angle)), (-np.sin(angle), np.cos(angle))))
    scaled = uv * np.asarray(change.get("scale", (1, 1)), np.float64)
    moved: Array = scaled @ turn.T + np.asarray(change.get("offset", (0, 0)), np.float64)
    return moved
