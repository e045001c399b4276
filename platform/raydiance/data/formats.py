"""Reads one mesh file of any supported kind within limits. Runs in the child process of `sandbox` only.

GLB has a reader of its own; OBJ, PLY and STL are parsed by trimesh, after a look at the sizes they announce.
"""

import io
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import trimesh
from numpy.typing import NDArray
from trimesh.resolvers import Resolver

from raydiance.data.gltf import Y_UP_TO_Z_UP, read_glb
from raydiance.data.meshes import COMPANION_SUFFIXES, Bytes, Mesh, MeshLimits, UpAxis, clean, merge
from raydiance.data.pictures import PictureBudget, as_texture
from raydiance.errors import DataError

__all__ = ["read_file"]

PLY_ELEMENT = re.compile(rb"^element (\w+) (\d+)\s*$", re.MULTILINE)


def read_file(path: Path, limits: MeshLimits, up: UpAxis) -> Mesh:
    """The mesh in a file, +Z up, without faces that have no area. Raises DataError with the reason."""
    suffix = path.suffix.lower()
    with path.open("rb") as file:
        data = file.read(limits.file_bytes + 1)
    if len(data) > limits.file_bytes:
        raise DataError(f"more than {limits.file_bytes} bytes; raise limits.file_bytes to read it")
    if suffix == ".glb":
        return clean(read_glb(data, limits))
    _check_counts(suffix, data, limits)
    mesh = _read_with_trimesh(path, suffix, data, limits)
    if up == "y" or (up == "auto" and suffix == ".obj"):
        turned = (mesh.vertices @ Y_UP_TO_Z_UP.T).astype(np.float32)
        mesh = Mesh(turned, mesh.faces, mesh.colours, mesh.uv, mesh.face_texture, mesh.textures)
    return clean(mesh)


def _check_counts(suffix: str, data: bytes, limits: MeshLimits) -> None:
    """Refuses a file for the numbers it announces, before it is parsed."""
    counts: list[int] = []
    if suffix == ".obj":
        counts = [data.count(b"\nf "), data.count(b"\nv ") // 3]
    elif suffix == ".ply":
        end = data.find(b"end_header")
        if not data.startswith(b"ply") or end < 0:
            raise DataError("no PLY file: it has no header")
        counts = [
            int(number) // 3 if name != b"face" else int(number)
            for name, number in PLY_ELEMENT.findall(data[:end])
        ]
    elif data[:5].lower() != b"solid" or b"facet" not in data[:1024]:
        announced = int.from_bytes(data[80:84], "little")
        if len(data) < 84 or len(data) != 84 + 50 * announced:
            raise DataError(f"no STL file, or truncated: {len(data)} bytes do not hold {announced} triangles")
        counts = [announced]
    if max(counts, default=0) > limits.faces:
        raise DataError(f"more than {limits.faces} faces; raise limits.faces to read it")


class _Companions(Resolver):
    """Files that a mesh names: only such as lie in its own folder, of known kinds, within the limits."""

    def __init__(self, folder: Path, limits: MeshLimits) -> None:
        self.folder, self.limits = folder.resolve(), limits
        self.budget = PictureBudget(limits)
        self.refused: list[DataError] = []

    def get(self, name: str) -> bytes:
        """The bytes of a file beside the mesh; a refusal is kept, because the parser passes over errors."""
        try:
            return self._get(name.strip())
        except DataError as error:
            self.refused.append(error)
            raise

    def _get(self, name: str) -> bytes:
        if "://" in name:
            raise DataError(f"refers to {name[:80]!r} outside its folder")
        path = (self.folder / name.replace("\\", "/")).resolve()
        if not path.is_relative_to(self.folder):
            raise DataError(f"refers to {name[:80]!r} outside its folder")
        if path.suffix.lower() not in COMPANION_SUFFIXES:
            raise DataError(f"refers to {name[:80]!r}, which is no material and no picture")
        if not path.is_file():
            raise FileNotFoundError(name)
        with path.open("rb") as file:
            data = file.read(self.limits.file_bytes + 1)
        if len(data) > self.limits.file_bytes:
            raise DataError(f"{name[:80]} has more than {self.limits.file_bytes} bytes (limits.file_bytes)")
        if path.suffix.lower() != ".mtl":
            self.budget.decode(data)
        return data

    def keys(self) -> list[str]:
        """Names are never listed."""
        return []

    def namespaced(self, namespace: str) -> "_Companions":
        """There is only one folder."""
        raise DataError(f"refers to the folder {namespace[:80]!r}")

    def write(self, name: str, data: object) -> None:
        """Nothing is written."""
        raise DataError(f"would write {name[:80]!r}")


def _read_with_trimesh(path: Path, suffix: str, data: bytes, limits: MeshLimits) -> Mesh:
    companions = _Companions(path.parent, limits)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            scene = trimesh.load_scene(
                io.BytesIO(data), file_type=suffix[1:], resolver=companions, process=False, allow_remote=False
            )
        except Exception as error:  # a parser of foreign bytes may raise anything
            raise DataError(f"broken {suffix[1:].upper()}: {type(error).__name__}: {error}") from error
    if companions.refused:
        raise companions.refused[0]
    parts = [part for part in scene.dump() if isinstance(part, trimesh.Trimesh) and len(part.faces)]
    if sum(len(part.faces) for part in parts) > limits.faces:
        raise DataError(f"more than {limits.faces} faces; raise limits.faces to read it")
    if not parts:
        raise DataError("the file has no triangles")
    return merge([_converted(part, limits) for part in parts])


def _converted(part: Any, limits: MeshLimits) -> Mesh:
    """A trimesh part with what colour it has; grey without any."""
    vertices, faces = np.asarray(part.vertices), np.asarray(part.faces)
    visual = part.visual
    if visual.kind == "texture":
        return _textured(vertices, faces, visual, limits)
    if visual.kind == "face":  # corners of their own, so that each face keeps its colour
        colours = np.repeat(np.asarray(visual.face_colors, np.uint8), 3, axis=0)
        vertices, faces = vertices[faces].reshape(-1, 3), np.arange(3 * len(faces)).reshape(-1, 3)
        return _coloured(vertices, faces, colours)
    if visual.kind == "vertex":
        return _coloured(vertices, faces, np.asarray(visual.vertex_colors, np.uint8))
    return Mesh.flat(vertices, faces, (180, 180, 180))


def _coloured(vertices: NDArray[Any], faces: NDArray[Any], colours: Bytes) -> Mesh:
    flat = Mesh.flat(vertices, faces, (0, 0, 0))
    return Mesh(flat.vertices, flat.faces, np.ascontiguousarray(colours), flat.uv, flat.face_texture)


def _textured(vertices: NDArray[Any], faces: NDArray[Any], visual: Any, limits: MeshLimits) -> Mesh:
    """A part with a material: its diffuse colour, or its picture where there are coordinates for it."""
    image, uv = getattr(visual.material, "image", None), visual.uv
    if image is None or uv is None:
        return Mesh.flat(vertices, faces, tuple(int(value) for value in visual.material.main_color))
    picture = as_texture(image, limits.texture_side)
    flat = Mesh.flat(vertices, faces, (255, 255, 255))
    corners = np.asarray(uv, np.float32)[faces]
    corners[..., 1] = 1 - corners[..., 1]  # OBJ counts from the bottom of the picture
    texture = np.zeros(len(faces), np.int32)
    return Mesh(flat.vertices, flat.faces, flat.colours, corners, texture, (picture,))
