"""Triangle meshes with colours: what ingestion writes and rendering reads.

World coordinates are right-handed with +Z up. Colours are sRGB-encoded with straight alpha.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from annotated_types import Gt
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors import numpy as safetensors

from raydiance.errors import DataError
from raydiance.spec import spec

__all__ = [
    "COMPANION_SUFFIXES",
    "MESH_SUFFIXES",
    "Mesh",
    "MeshLimits",
    "UpAxis",
    "check_mesh",
    "clean",
    "load_mesh",
    "merge",
    "open_edges",
    "pack_mesh",
    "save_mesh",
    "unpack_mesh",
]

MESH_SUFFIXES = (".glb", ".obj", ".ply", ".stl")
COMPANION_SUFFIXES = (".mtl", ".png", ".jpg", ".jpeg", ".webp")  # of what an OBJ may name

UpAxis = Literal["auto", "y", "z"]  # "auto": y for OBJ, z for PLY and STL; GLB always has y
Float = NDArray[np.float32]
Int = NDArray[np.int32]
Bytes = NDArray[np.uint8]


@spec
class MeshLimits:
    """How much one file may ask for; what asks for more is refused.

    file_bytes: of the file and of each file that it names. texture_pixels: of all its pictures together.
    texture_side: pictures with a longer side are made smaller. scene_nodes: nodes, meshes and materials of a
    scene, each. memory_bytes, cpu_s, wall_s: of the process that reads it.
    """

    file_bytes: Annotated[int, Gt(0)] = 256 << 20
    faces: Annotated[int, Gt(0)] = 2_000_000
    texture_pixels: Annotated[int, Gt(0)] = 32 << 20
    texture_side: Annotated[int, Gt(0)] = 1024
    scene_nodes: Annotated[int, Gt(0)] = 10_000
    memory_bytes: Annotated[int, Gt(0)] = 3 << 30
    cpu_s: Annotated[int, Gt(0)] = 20
    wall_s: Annotated[float, Gt(0)] = 40.0


@dataclass(frozen=True)
class Mesh:
    """N vertices and F triangles, counter-clockwise from outside, in one indexed set.

    vertices float32 [N, 3]; faces int32 [F, 3]; colours uint8 [N, 4], RGBA of each vertex.
    uv float32 [F, 3, 2]: texture coordinates of each corner, v = 0 at the top; [0, 3, 2] without textures.
    face_texture int32 [F]: index into textures, -1 for none. textures: uint8 [h, w, 4], repeated beyond 0..1.
    The colour of a point is its interpolated vertex colour times its texel.
    """

    vertices: Float
    faces: Int
    colours: Bytes
    uv: Float
    face_texture: Int
    textures: tuple[Bytes, ...] = ()

    @classmethod
    def flat(cls, vertices: NDArray[np.generic], faces: NDArray[np.generic], rgba: Sequence[int]) -> "Mesh":
        """A mesh of one colour, given as three or four integers in 0..255."""
        colour = np.array((*rgba, 255)[:4], np.uint8)
        return cls(
            vertices=np.ascontiguousarray(vertices, np.float32),
            faces=np.ascontiguousarray(faces, np.int32),
            colours=np.tile(colour, (len(vertices), 1)),
            uv=np.zeros((0, 3, 2), np.float32),
            face_texture=np.full(len(faces), -1, np.int32),
        )

    def face_normals(self) -> Float:
        """Normals of the faces [F, 3], as long as twice the area of the face."""
        a, b, c = (self.vertices[self.faces[:, corner]] for corner in range(3))
        return np.cross(b - a, c - a)

    def volume(self) -> float:
        """The signed volume inside; positive where every closed part is wound outwards."""
        a, b, c = (self.vertices[self.faces[:, corner]].astype(np.float64) for corner in range(3))
        return float(np.einsum("ij,ij->", a, np.cross(b, c)) / 6)


def merge(meshes: Sequence[Mesh]) -> Mesh:
    """The union of the meshes as one indexed set; equal textures (the same array) are kept once."""
    textures: list[Bytes] = []
    slots: dict[int, int] = {}
    offset, faces, face_texture, uv = 0, [], [], []
    for mesh in meshes:
        for texture in mesh.textures:
            if id(texture) not in slots:
                slots[id(texture)] = len(textures)
                textures.append(texture)
        lookup = np.array([*(slots[id(texture)] for texture in mesh.textures), -1], np.int32)
        faces.append(mesh.faces + np.int32(offset))
        face_texture.append(lookup[mesh.face_texture])
        uv.append(mesh.uv if len(mesh.uv) else np.zeros((len(mesh.faces), 3, 2), np.float32))
        offset += len(mesh.vertices)
    return Mesh(
        vertices=np.concatenate([mesh.vertices for mesh in meshes]),
        faces=np.concatenate(faces),
        colours=np.concatenate([mesh.colours for mesh in meshes]),
        uv=np.concatenate(uv) if textures else np.zeros((0, 3, 2), np.float32),
        face_texture=np.concatenate(face_texture),
        textures=tuple(textures),
    )


def clean(mesh: Mesh) -> Mesh:
    """The mesh without faces that have no area and without vertices that no face uses.

    Raises DataError if nothing is left, or if `check_mesh` does.
    """
    check_mesh(mesh)
    a, b, c = (mesh.vertices[mesh.faces[:, corner]].astype(np.float64) for corner in range(3))
    keep = (np.cross(b - a, c - a) ** 2).sum(axis=-1) > 0
    if not keep.any():
        raise DataError("the mesh has no faces with an area")
    used, faces = np.unique(mesh.faces[keep], return_inverse=True)
    return Mesh(
        vertices=mesh.vertices[used],
        faces=faces.reshape(-1, 3).astype(np.int32),
        colours=mesh.colours[used],
        uv=mesh.uv[keep] if len(mesh.uv) else mesh.uv,
        face_texture=mesh.face_texture[keep],
        textures=mesh.textures,
    )


def open_edges(faces: Int) -> int:
    """The number of directed edges without exactly one partner in the opposite direction; 0 means closed."""
    directed = np.concatenate([faces[:, (0, 1)], faces[:, (1, 2)], faces[:, (2, 0)]]).astype(np.int64)
    base = int(faces.max(initial=0)) + 1
    there, counts = np.unique(directed[:, 0] * base + directed[:, 1], return_counts=True)
    back = np.unique(directed[:, 1] * base + directed[:, 0])
    return int(np.setxor1d(there, back).size + (counts > 1).sum())


def check_mesh(mesh: Mesh) -> None:
    """Raises DataError unless shapes, types and indices agree and every coordinate is finite."""
    num_vertices, num_faces = len(mesh.vertices), len(mesh.faces)
    num_uv = num_faces if mesh.textures else 0
    for name, array, shape, dtype in (
        ("vertices", mesh.vertices, (num_vertices, 3), np.float32),
        ("faces", mesh.faces, (num_faces, 3), np.int32),
        ("colours", mesh.colours, (num_vertices, 4), np.uint8),
        ("uv", mesh.uv, (num_uv, 3, 2), np.float32),
        ("face_texture", mesh.face_texture, (num_faces,), np.int32),
    ):
        if array.shape != shape or array.dtype != dtype:
            raise DataError(f"mesh.{name} needs {dtype.__name__} {shape}, got {array.dtype} {array.shape}")
    for texture in mesh.textures:
        if texture.ndim != 3 or texture.shape[2] != 4 or texture.dtype != np.uint8 or not texture.size:
            raise DataError(f"mesh.textures need uint8 [h, w, 4], got {texture.dtype} {texture.shape}")
    if not num_faces:
        raise DataError("the mesh has no faces")
    if mesh.faces.min() < 0 or mesh.faces.max() >= num_vertices:
        raise DataError(f"mesh.faces point outside the {num_vertices} vertices")
    if mesh.face_texture.min() < -1 or mesh.face_texture.max() >= len(mesh.textures):
        raise DataError(f"mesh.face_texture points outside the {len(mesh.textures)} textures")
    if not (np.isfinite(mesh.vertices).all() and np.isfinite(mesh.uv).all()):
        raise DataError("the mesh has coordinates that are not finite")


def pack_mesh(mesh: Mesh) -> bytes:
    """The mesh as the bytes of a safetensors file."""
    arrays = {
        "vertices": mesh.vertices,
        "faces": mesh.faces,
        "colours": mesh.colours,
        "uv": mesh.uv,
        "face_texture": mesh.face_texture,
        **{f"texture.{index}": texture for index, texture in enumerate(mesh.textures)},
    }
    return safetensors.save({name: np.ascontiguousarray(array) for name, array in arrays.items()})


def unpack_mesh(data: bytes) -> Mesh:
    """The mesh out of `pack_mesh`; DataError for bytes that are no such mesh."""
    try:
        arrays: Mapping[str, NDArray[np.generic]] = safetensors.load(data)
        num_textures = sum(name.startswith("texture.") for name in arrays)
        mesh = Mesh(
            **{name: arrays[name] for name in ("vertices", "faces", "colours", "uv", "face_texture")},  # type: ignore[arg-type]
            textures=tuple(arrays[f"texture.{index}"] for index in range(num_textures)),  # type: ignore[misc]
        )
    except (SafetensorError, KeyError) as error:
        raise DataError(f"these bytes hold no mesh: {error}") from error
    check_mesh(mesh)
    return mesh


def save_mesh(path: Path, mesh: Mesh) -> None:
    """Writes the mesh as safetensors."""
    path.write_bytes(pack_mesh(mesh))


def load_mesh(path: Path) -> Mesh:
    """Reads what `save_mesh` wrote; DataError names the file if it is something else."""
    try:
        return unpack_mesh(path.read_bytes())
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
