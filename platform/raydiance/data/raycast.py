"""Views of a mesh by ray casting: Embree finds the hits, compiled loops make the rays and the colours.

Shading is diffuse, from lights that stand still in the world, so that a point looks the same from every view
(which is what a radiance field without view dependence can represent): with n the normal on the side that is
seen, light(n) = SKY (1 + n_z) / 2 + GROUND (1 - n_z) / 2 + sum_l L_l max(0, n . l). Vertex colour, texel and
light(n)^(1/2.2) are multiplied as they are encoded, because the product of encoded values is the encoded
product (up to the toe of the sRGB curve); samples are averaged in that space too, where fields composite.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
from embreex.mesh_construction import TriangleMesh
from embreex.rtcore_scene import EmbreeScene
from numpy.typing import NDArray

from raydiance.data.meshes import Bytes, Float, Int, Mesh
from raydiance.data.pinholes import Pinholes, ViewArrays

__all__ = ["render_mesh"]

Long = NDArray[np.int64]

SKY, GROUND = 0.42, 0.16
LIGHTS = np.array(
    [(0.45, -0.65, 0.70), (-0.80, -0.25, 0.35), (0.15, 0.85, 0.40)]
)  # key, fill, rim: towards it
STRENGTHS = np.array([0.62, 0.22, 0.18])
CREASE = np.cos(np.radians(50.0))  # faces that meet at less than this are shaded as one smooth surface
MAX_CROWD = 64  # a vertex shared by more faces than this is not smoothed: the work is quadratic
CHUNK = 1 << 16  # pixels in one query, which bounds the memory
LAYERS = 6  # surfaces seen through one another at most
NUDGE = 1e-4  # how far behind a hit the ray goes on


def _jit(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile on the first call; kept in numba's cache where that can be written, else for this process."""
    try:
        return numba.njit(cache=True, nogil=True)(function)
    except RuntimeError:  # numba finds no folder for its cache
        return numba.njit(nogil=True)(function)


def render_mesh(mesh: Mesh, cameras: Pinholes, *, supersample: int = 2) -> ViewArrays:
    """All views of the mesh, supersample^2 rays for each pixel on a regular grid."""
    shape = (len(cameras.pose), cameras.height, cameras.width)
    num_pixels, samples = int(np.prod(shape)), supersample**2
    rgba, depth = np.zeros((num_pixels, 4), np.uint8), np.zeros(num_pixels, np.float32)
    surface = _prepare(mesh, _footprint(cameras) / supersample)
    scene = EmbreeScene()
    TriangleMesh(scene, mesh.vertices, mesh.faces)
    layers = LAYERS if surface.is_transparent else 1
    for start in range(0, num_pixels, CHUNK):
        stop = min(start + CHUNK, num_pixels)
        origins, directions = _cast(
            cameras.pose,
            cameras.focal,
            cameras.center,
            cameras.width,
            cameras.height,
            supersample,
            start,
            stop,
        )
        seen = np.zeros((len(origins), 4), np.float32)
        distance = np.zeros(len(origins), np.float32)
        _trace(scene, surface, origins, directions, seen, distance, layers)
        _resolve(seen, distance, samples, rgba[start:stop], depth[start:stop])
    return ViewArrays(rgba.reshape(*shape, 4), depth.astype(np.float16).reshape(shape))


def _trace(
    scene: EmbreeScene,
    surface: "_Surface",
    origins: Float,
    directions: Float,
    seen: Float,
    distance: Float,
    layers: int,
) -> None:
    """Fills seen [R, 4] (colour times alpha, alpha) and distance [R]; goes on behind what is seen through."""
    index = np.arange(len(origins))
    travelled = np.zeros(len(origins), np.float32)
    for layer in range(layers):
        hit = scene.run(origins, directions, output=1)
        _shade(
            *(hit["primID"], hit["u"], hit["v"], hit["tfar"], directions, index, travelled),
            *(surface.faces, surface.normals, surface.colours, surface.light),
            *(surface.uv, surface.face_texture, surface.face_level, surface.levels, surface.texels),
            *(seen, distance),
        )
        if layer + 1 == layers:
            return
        on = (hit["primID"] >= 0) & (seen[index, 3] < 0.98)
        if not on.any():
            return
        step = hit["tfar"][on] + np.float32(NUDGE)
        index, directions = index[on], directions[on]
        origins = origins[on] + step[:, None] * directions
        travelled = travelled[on] + step


@dataclass(frozen=True)
class _Surface:
    """A mesh as the loops read it: light [F, 3 corners, 2 sides], levels [texture, level, (offset, w, h)]."""

    faces: Int
    normals: Float
    colours: Float
    light: Float
    uv: Float
    face_texture: Int
    face_level: Int
    levels: Long
    texels: Bytes
    is_transparent: bool


def _prepare(mesh: Mesh, footprint: float) -> _Surface:
    normals = mesh.face_normals()
    levels, texels = _mip_levels(mesh.textures)
    used = [texture for index, texture in enumerate(mesh.textures) if (mesh.face_texture == index).any()]
    return _Surface(
        faces=mesh.faces,
        normals=normals,
        colours=mesh.colours.astype(np.float32) / np.float32(255),
        light=_corner_light(mesh, normals),
        uv=mesh.uv,
        face_texture=mesh.face_texture,
        face_level=_face_levels(mesh, normals, footprint, levels),
        levels=levels,
        texels=texels,
        is_transparent=bool((mesh.colours[:, 3] < 255).any() or any((t[..., 3] < 255).any() for t in used)),
    )


def _footprint(cameras: Pinholes) -> float:
    """The width of a pixel in world units at the origin, where the objects are."""
    return float((np.linalg.norm(cameras.pose[:, :, 3], axis=-1) / cameras.focal[:, 0]).mean())


def _corner_light(mesh: Mesh, normals: Float) -> Float:
    """Encoded light [F, 3, 2] at each corner, on the side of the normal and on the other side."""
    keys = np.round(mesh.vertices.astype(np.float64) * 1e5).astype(np.int64)
    key = (keys[:, 0] * 73856093) ^ (keys[:, 1] * 19349669) ^ (keys[:, 2] * 83492791)
    place = np.unique(key, return_inverse=True)[1][mesh.faces].reshape(-1)
    order = np.argsort(place, kind="stable")
    starts = np.flatnonzero(np.diff(place[order], prepend=-1, append=place.max() + 1))
    smooth = _smooth_normals(order, starts, normals, np.linalg.norm(normals, axis=-1)).reshape(-1, 3, 3)
    directions = LIGHTS / np.linalg.norm(LIGHTS, axis=-1, keepdims=True)
    sides = []
    for side in (1.0, -1.0):
        n = side * smooth
        light = SKY * (1 + n[..., 2]) / 2 + GROUND * (1 - n[..., 2]) / 2
        sides.append((light + np.maximum(n @ directions.T, 0) @ STRENGTHS) ** (1 / 2.2))
    return np.stack(sides, axis=-1).astype(np.float32)


@_jit
def _smooth_normals(order: Long, starts: Long, normals: Float, length: Float) -> Float:
    """Unit normals [3F, 3] of the corners: the sum over faces round the vertex that meet below the crease."""
    out = np.zeros((len(order), 3), np.float32)
    for group in range(len(starts) - 1):
        first, last = starts[group], starts[group + 1]
        for i in range(first, last):
            face = order[i] // 3
            a, b, c = normals[face, 0], normals[face, 1], normals[face, 2]
            x, y, z = a, b, c
            for j in range(first, last if last - first <= MAX_CROWD else first):
                other = order[j] // 3
                p, q, r = normals[other, 0], normals[other, 1], normals[other, 2]
                if other != face and a * p + b * q + c * r > CREASE * length[face] * length[other]:
                    x, y, z = x + p, y + q, z + r
            norm = np.sqrt(x * x + y * y + z * z) + 1e-30
            out[order[i], 0], out[order[i], 1], out[order[i], 2] = x / norm, y / norm, z / norm
    return out


def _mip_levels(textures: tuple[Bytes, ...]) -> tuple[Long, Bytes]:
    """All textures and their halvings in one array [T, 4], and where each begins: [texture, level, 3]."""
    pyramids: list[list[Bytes]] = []
    for texture in textures:
        pyramid = [texture]
        while max(pyramid[-1].shape[:2]) > 1:
            full = pyramid[-1].astype(np.float32)
            full = np.pad(full, ((0, full.shape[0] % 2), (0, full.shape[1] % 2), (0, 0)), mode="edge")
            half = full.reshape(full.shape[0] // 2, 2, full.shape[1] // 2, 2, 4).mean(axis=(1, 3))
            pyramid.append(np.round(half).astype(np.uint8))
        pyramids.append(pyramid)
    depth = max((len(pyramid) for pyramid in pyramids), default=1)
    levels = np.zeros((max(len(pyramids), 1), depth, 3), np.int64)
    offset = 0
    for index, pyramid in enumerate(pyramids):
        for level, image in enumerate(pyramid):
            levels[index, level:] = offset, image.shape[1], image.shape[0]
            offset += image.shape[0] * image.shape[1]
    flat = [image.reshape(-1, 4) for pyramid in pyramids for image in pyramid]
    return levels, np.concatenate(flat) if flat else np.zeros((1, 4), np.uint8)


def _face_levels(mesh: Mesh, normals: Float, footprint: float, levels: Long) -> Int:
    """The level of each face's texture [F] whose texels are about as large as a ray's footprint."""
    level = np.zeros(len(mesh.faces), np.int32)
    faces = np.flatnonzero(mesh.face_texture >= 0)
    if len(faces):
        sizes = levels[mesh.face_texture[faces], 0, 1:]
        p, q = mesh.uv[faces, 1] - mesh.uv[faces, 0], mesh.uv[faces, 2] - mesh.uv[faces, 0]
        texels = np.abs(p[:, 0] * q[:, 1] - p[:, 1] * q[:, 0]).astype(np.float64) * sizes.prod(axis=-1)
        area = np.maximum(np.linalg.norm(normals[faces], axis=-1), 1e-12)
        wanted = 0.5 * np.log2(np.maximum(texels / area * footprint**2, 1.0))
        level[faces] = np.clip(np.round(wanted), 0, levels.shape[1] - 1)
    return level


@_jit
def _cast(
    pose: NDArray[np.float64],
    focal: NDArray[np.float64],
    center: NDArray[np.float64],
    width: int,
    height: int,
    supersample: int,
    start: int,
    stop: int,
) -> tuple[Float, Float]:
    """Rays of the pixels start..stop, counted over views, rows, columns; a pixel's samples side by side."""
    samples = supersample * supersample
    origins = np.empty(((stop - start) * samples, 3), np.float32)
    directions = np.empty_like(origins)
    ray = 0
    for pixel in range(start, stop):
        view = pixel // (width * height)
        row, column = (pixel // width) % height, pixel % width
        m = pose[view]
        for sample in range(samples):
            along_x = column + (sample % supersample + 0.5) / supersample
            along_y = row + (sample // supersample + 0.5) / supersample
            x = (along_x - center[view, 0]) / focal[view, 0]
            y = (center[view, 1] - along_y) / focal[view, 1]
            scale = 1.0 / np.sqrt(x * x + y * y + 1.0)
            for axis in range(3):
                origins[ray, axis] = m[axis, 3]
                directions[ray, axis] = (m[axis, 0] * x + m[axis, 1] * y - m[axis, 2]) * scale
            ray += 1
    return origins, directions


@_jit
def _shade(
    prim: Int,
    us: Float,
    vs: Float,
    tfar: Float,
    directions: Float,
    index: Long,
    travelled: Float,
    faces: Int,
    normals: Float,
    colours: Float,
    light: Float,
    uv: Float,
    face_texture: Int,
    face_level: Int,
    levels: Long,
    texels: Bytes,
    seen: Float,
    distance: Float,
) -> None:
    """Composites each hit behind what its ray has seen so far."""
    colour, texel = np.empty(4, np.float32), np.empty(4, np.float32)
    for i in range(len(prim)):
        face = prim[i]
        if face < 0:
            continue
        v1, v2 = us[i], vs[i]
        v0 = np.float32(1) - v1 - v2
        d = directions[i]
        n = normals[face]
        side = 0 if n[0] * d[0] + n[1] * d[1] + n[2] * d[2] < 0 else 1
        shade = v0 * light[face, 0, side] + v1 * light[face, 1, side] + v2 * light[face, 2, side]
        a, b, c = faces[face]
        for k in range(4):
            colour[k] = v0 * colours[a, k] + v1 * colours[b, k] + v2 * colours[c, k]
        texture = face_texture[face]
        if texture >= 0:
            s = v0 * uv[face, 0, 0] + v1 * uv[face, 1, 0] + v2 * uv[face, 2, 0]
            t = v0 * uv[face, 0, 1] + v1 * uv[face, 1, 1] + v2 * uv[face, 2, 1]
            offset, width, height = levels[texture, face_level[face]]
            _fetch(texels, offset, width, height, s, t, texel)
            for k in range(4):
                colour[k] *= texel[k]
        ray = index[i]
        weight = (np.float32(1) - seen[ray, 3]) * colour[3]
        for k in range(3):
            seen[ray, k] += weight * min(colour[k] * shade, np.float32(1))
        seen[ray, 3] += weight
        if distance[ray] == 0 and seen[ray, 3] >= 0.5:
            distance[ray] = travelled[i] + tfar[i]


@_jit
def _fetch(texels: Bytes, offset: int, width: int, height: int, s: float, t: float, out: Float) -> None:
    """The bilinear texel at (s, t), repeated, in 0..1."""
    x, y = (s - np.floor(s)) * width - 0.5, (t - np.floor(t)) * height - 0.5
    left, top = int(np.floor(x)), int(np.floor(y))
    right_part, bottom_part = np.float32(x - left), np.float32(y - top)
    x0, x1 = left % width, (left + 1) % width
    y0, y1 = top % height, (top + 1) % height
    for k in range(4):
        upper = texels[offset + y0 * width + x0, k] * (1 - right_part)
        upper += texels[offset + y0 * width + x1, k] * right_part
        lower = texels[offset + y1 * width + x0, k] * (1 - right_part)
        lower += texels[offset + y1 * width + x1, k] * right_part
        out[k] = (upper * (1 - bottom_part) + lower * bottom_part) / np.float32(255)


@_jit
def _resolve(seen: Float, distance: Float, samples: int, rgba: Bytes, depth: Float) -> None:
    """The mean over the samples of each pixel, as bytes with straight alpha; the mean depth of the hits."""
    for pixel in range(len(rgba)):
        r = g = b = a = far = np.float32(0)
        hits = 0
        for ray in range(pixel * samples, (pixel + 1) * samples):
            r += seen[ray, 0]
            g += seen[ray, 1]
            b += seen[ray, 2]
            a += seen[ray, 3]
            far += distance[ray]
            hits += distance[ray] > 0
        if a > 0:
            rgba[pixel, 0] = np.uint8(255 * r / a + 0.5)
            rgba[pixel, 1] = np.uint8(255 * g / a + 0.5)
            rgba[pixel, 2] = np.uint8(255 * b / a + 0.5)
            rgba[pixel, 3] = np.uint8(255 * a / samples + 0.5)
        if hits:
            depth[pixel] = far / hits
