"""The colours of a field as a texture on its mesh, for viewers that do not show colours of vertices."""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from raydiance.fields.meshing import surface_colours
from raydiance.fields.voxels import VoxelField

if TYPE_CHECKING:
    import trimesh

__all__ = ["bake_texture"]

Array = NDArray[Any]


def bake_texture(field: VoxelField, mesh: "trimesh.Trimesh", *, size: int = 1024) -> "trimesh.Trimesh":
    """The mesh unwrapped by xatlas, with a texture of size x size that shows what rays see of the field.

    Vertices are doubled along the seams, so the copy is no longer closed in its topology; its shape is the
    same. Texels between the charts take the colour of the nearest chart: no seam shows when the texture is
    made smaller.
    """
    import trimesh  # these here, because importing them takes its time
    import xatlas
    from scipy import ndimage

    from raydiance.fields.rasterising import cover_texels

    if size < 16:
        raise ValueError(f"need a texture of at least 16 x 16 texels, got {size}")

    vertices, normals = (np.asarray(values, np.float32) for values in (mesh.vertices, mesh.vertex_normals))
    origin, faces, uv = xatlas.parametrize(vertices, np.asarray(mesh.faces, np.uint32))
    faces = np.asarray(faces, np.int64)
    texels = np.asarray(uv, np.float64) * (size, -size) + (0, size)  # rows run downwards, v upwards
    face, weights = np.full((size, size), -1, np.int64), np.zeros((size, size, 3), np.float32)
    cover_texels(texels, faces, face, weights)
    covered = face >= 0
    corners = origin[faces[face[covered]]]
    weight = weights[covered][..., None]
    image = np.zeros((size, size, 4), np.uint8)
    image[covered] = surface_colours(
        field, (vertices[corners] * weight).sum(1), (normals[corners] * weight).sum(1)
    )
    nearest = ndimage.distance_transform_edt(~covered, return_distances=False, return_indices=True)
    texture = Image.fromarray(image[..., :3][tuple(nearest)])
    material = trimesh.visual.material.SimpleMaterial(image=texture)  # type: ignore[no-untyped-call]
    baked = trimesh.Trimesh(vertices[origin], faces, vertex_normals=normals[origin], process=False)
    baked.visual = trimesh.visual.TextureVisuals(  # type: ignore[no-untyped-call]
        uv=np.asarray(uv, np.float64), material=material
    )
    baked.metadata.update(mesh.metadata)
    return baked
