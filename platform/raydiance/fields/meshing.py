"""From a field to a triangle mesh: marching cubes, clean-up, and the colours one sees."""

import math
from typing import TYPE_CHECKING, Any, Literal

import fast_simplification
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from raydiance.errors import DataError
from raydiance.fields.cameras import Rays
from raydiance.fields.rendering import render
from raydiance.fields.voxels import VoxelField

if TYPE_CHECKING:
    import trimesh

__all__ = ["default_iso", "extract_mesh", "surface_colours"]

Array = NDArray[Any]


def default_iso(field: VoxelField) -> float:
    """The density whose surface casts the field's own shadows, found along the three axes of the grid.

    A ray is in shadow where it loses half its light, integral sigma dx > ln 2. One cell of density ln 2 / cell
    does that, but a leg of half a cell, or one that the network is not sure of, peaks lower and shows in the
    views all the same. So the levels tried are ln 2 / cell * 2^(-k / 4); the best overlaps most with the
    shadows.
    """
    density = _twice_as_fine(field.grid[..., 0].detach())
    ceiling = min(math.log(2) / min(field.cell_size), 0.5 * float(density.max()))
    levels = ceiling * 2.0 ** (-torch.arange(17, dtype=density.dtype) / 4)
    shared = either = torch.zeros(len(levels), dtype=torch.int64)
    for axis, cell in enumerate(field.cell_size):
        shadow = density.clamp(min=0).sum(axis) * (cell / 2) > math.log(2)
        cast = density.amax(axis) > levels[:, None, None]
        shared = shared + (cast & shadow).sum((1, 2))
        either = either + (cast | shadow).sum((1, 2))
    return float(levels[int((shared / either.clamp(min=1)).argmax())])


def _twice_as_fine(density: Tensor) -> Tensor:
    """[1, X, Y, Z] -> float64 [2 X - 1, 2 Y - 1, 2 Z - 1], trilinear, corner to corner, on the CPU."""
    size = [2 * each - 1 for each in density.shape[1:]]
    fine = density.to("cpu", torch.float64)[None]
    return F.interpolate(fine, size, mode="trilinear", align_corners=True)[0, 0]


def extract_mesh(
    field: VoxelField,
    *,
    resolution: int | None = None,
    iso: float | None = None,
    components: Literal["all", "largest"] = "all",
    fill_cavities: bool = False,
    max_faces: int | None = None,
) -> "trimesh.Trimesh":
    """The surface of one field at density `iso` (None: default_iso), with vertex colours (uint8 sRGB), Z-up.

    resolution: samples per axis of the volume that is polygonised (None: the grid's own). components: keep
    all, or the one of largest volume. fill_cavities: drop surfaces of hollows inside. max_faces: simplify
    down to so many. The surface is closed where the box cuts it. mesh.metadata["raydiance"] holds iso,
    resolution and watertight. DataError if the field is not finite or has no surface at that density.
    """
    import trimesh  # here, because whoever trains has no mesh to make

    if len(field) != 1:
        raise ValueError(f"a mesh is made of one field, got {len(field)}: pick one with field[i]")
    field = field.detach().to("cpu", torch.float32)
    field.check_finite()
    level = default_iso(field) if iso is None else iso
    density = _density(field, resolution)
    if not 0 < level < float(density.max()):
        raise DataError(
            f"no surface at density {level:g}: the field's densities lie between 0 and "
            f"{float(density.max()):g}; choose an iso level between"
        )
    vertices, faces = _polygonise(field, density, level)
    keep = _kept_faces(vertices, faces, components, fill_cavities)
    mesh = trimesh.Trimesh(vertices, faces[keep], process=False)
    mesh.remove_unreferenced_vertices()
    if max_faces is not None and len(mesh.faces) > max_faces:
        vertices, faces = fast_simplification.simplify(
            np.asarray(mesh.vertices, np.float32), np.asarray(mesh.faces), target_count=max_faces
        )
        mesh = trimesh.Trimesh(vertices, faces, process=False)
        mesh.remove_unreferenced_vertices()
    colours = surface_colours(field, np.asarray(mesh.vertices), np.asarray(mesh.vertex_normals))
    mesh.visual = trimesh.visual.ColorVisuals(mesh, vertex_colors=colours)
    mesh.metadata["raydiance"] = {
        "iso": level,
        "resolution": list(density.shape),
        "watertight": bool(mesh.is_watertight),
    }
    return mesh


def surface_colours(field: VoxelField, points: Array, normals: Array) -> Array:
    """uint8 sRGB [N, 4]: what a ray sees that comes in against the normal, from two cells outside the point.

    The colour stored at the surface itself is half that of the empty space beside it; this is the rendered
    one.
    """
    inwards = -torch.from_numpy(np.array(normals, np.float32))
    inwards = inwards / inwards.norm(dim=-1, keepdim=True).clamp(min=1e-12)
    origins = torch.from_numpy(np.array(points, np.float32)) - 2 * max(field.cell_size) * inwards
    seen = render(
        field, Rays(origins, inwards), num_samples=4 * max(field.resolution), background=0.0, early_stop=1e-3
    )
    colour = (seen.colour[0] / seen.opacity[0].clamp(min=1e-6)[:, None]).clamp(0, 1)
    alpha = torch.ones(len(colour), 1)
    return (torch.cat((colour, alpha), dim=-1) * 255).round().to(torch.uint8).numpy()


def _density(field: VoxelField, resolution: int | None) -> Array:
    """Densities float32 [X, Y, Z] of the box, sampled corner to corner."""
    density = field.grid[0, ..., 0]
    if resolution is not None:
        if resolution < 2:
            raise ValueError(f"need a mesh resolution >= 2, got {resolution}")
        density = F.interpolate(density[None, None], (resolution,) * 3, mode="trilinear", align_corners=True)[
            0, 0
        ]
    return density.numpy()


def _polygonise(field: VoxelField, density: Array, level: float) -> tuple[Array, Array]:
    """Vertices float32 [N, 3] in the world and outward faces [F, 3]; empty samples all round close it."""
    from skimage import measure

    lower, upper = np.array(field.lower), np.array(field.upper)
    spacing = (upper - lower) / (np.array(density.shape) - 1)
    padded = np.pad(density, 1)
    vertices, faces, _, _ = measure.marching_cubes(  # type: ignore[no-untyped-call]
        padded, level, gradient_direction="ascent"
    )
    places = torch.from_numpy(((vertices - 1) * spacing + lower).astype(np.float32))
    return field.bring_out(places, points=True).numpy(), faces.astype(np.int32)


def _kept_faces(vertices: Array, faces: Array, components: str, fill_cavities: bool) -> Array:
    """bool [F]: faces of the connected surfaces to keep; a hollow's surface encloses a negative volume."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    ends = np.concatenate((faces[:, :2], faces[:, 1:]))
    graph = coo_array((np.ones(len(ends), bool), (ends[:, 0], ends[:, 1])), shape=(len(vertices),) * 2)
    count, label = connected_components(graph, directed=False)
    corners = vertices[faces].astype(np.float64)
    volume = np.einsum("fi,fi->f", corners[:, 0], np.cross(corners[:, 1], corners[:, 2])) / 6
    label = label[faces[:, 0]]
    volumes = np.bincount(label, volume, minlength=count)
    keep = volumes > 0 if fill_cavities else np.ones(count, bool)
    if components == "largest":
        keep &= volumes == volumes.max()
    return np.asarray(keep[label])
