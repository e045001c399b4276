"""Closed parametric solids: every part of a piece of furniture is one of these.

A solid is a stack of rings (a loft) with both ends filled, or a stuffed box. All are closed, wound outwards.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Solid", "box", "cushion", "loft", "panel", "pole", "rod", "tube"]

Array = NDArray[np.float64]
Point = Sequence[float] | Array


@dataclass(frozen=True)
class Solid:
    """One closed part: vertices float64 [N, 3], faces int64 [F, 3] counter-clockwise from outside."""

    vertices: Array
    faces: NDArray[np.int64]

    def moved(self, x: float = 0.0, y: float = 0.0, z: float = 0.0) -> "Solid":
        """The solid shifted."""
        return Solid(self.vertices + np.array((x, y, z)), self.faces)

    def turned(self, axis: int, degrees: float, pivot: Point = (0.0, 0.0, 0.0)) -> "Solid":
        """The solid turned about the world axis (0, 1, 2) through the pivot, counter-clockwise."""
        angle = np.radians(degrees)
        i, j = (axis + 1) % 3, (axis + 2) % 3
        turn = np.eye(3)
        turn[i, i] = turn[j, j] = np.cos(angle)
        turn[i, j], turn[j, i] = -np.sin(angle), np.sin(angle)
        return Solid((self.vertices - np.asarray(pivot)) @ turn.T + np.asarray(pivot), self.faces)

    def bent(self, axis: int, along: int, depth: float) -> "Solid":
        """The solid pushed along `along` by a parabola in `axis`: 0 in the middle, `depth` at both ends."""
        vertices = self.vertices.copy()
        middle = (vertices[:, axis].max() + vertices[:, axis].min()) / 2
        reach = max(np.ptp(vertices[:, axis]) / 2, 1e-9)
        vertices[:, along] += depth * ((vertices[:, axis] - middle) / reach) ** 2
        return Solid(vertices, self.faces)


def loft(rings: Array) -> Solid:
    """The solid through rings [M, K, 3] of points, both ends filled from their centres.

    The rings run counter-clockwise seen from the last one; a stack the other way round is turned.
    """
    num_rings, size, _ = rings.shape
    ends = np.stack((rings[0].mean(axis=0), rings[-1].mean(axis=0)))
    here = np.arange(size)
    after = (here + 1) % size
    faces = []
    for ring in range(num_rings - 1):
        low, high = ring * size, (ring + 1) * size
        faces.append(np.stack((low + here, low + after, high + after), axis=-1))
        faces.append(np.stack((low + here, high + after, high + here), axis=-1))
    bottom, top, last = num_rings * size, num_rings * size + 1, (num_rings - 1) * size
    faces.append(np.stack((after, here, np.full(size, bottom)), axis=-1))
    faces.append(np.stack((last + here, last + after, np.full(size, top)), axis=-1))
    return _outwards(np.concatenate((rings.reshape(-1, 3), ends)), np.concatenate(faces))


def _outwards(vertices: Array, faces: NDArray[np.int64]) -> Solid:
    a, b, c = (vertices[faces[:, corner]] for corner in range(3))
    volume = np.einsum("ij,ij->", a, np.cross(b, c))
    return Solid(vertices, faces if volume > 0 else faces[:, ::-1].copy())


def _rounded_rectangle(width: float, depth: float, radius: float, steps: int) -> Array:
    """Outline [4 (steps + 1), 2] of a rectangle round the origin with rounded corners, counter-clockwise."""
    angles = np.linspace(0, np.pi / 2, steps + 1)
    corners = []
    for quarter, (sx, sy) in enumerate(((1, 1), (-1, 1), (-1, -1), (1, -1))):
        turn = angles + quarter * np.pi / 2
        centre = np.array((sx * (width / 2 - radius), sy * (depth / 2 - radius)))
        corners.append(centre + radius * np.stack((np.cos(turn), np.sin(turn)), axis=-1))
    return np.concatenate(corners)


def _stack(outline: Array, levels: Sequence[tuple[float, Array | float]]) -> Array:
    """Rings [M, K, 3]: the outline [K, 2] times a scale at each height."""
    return np.stack(
        [np.column_stack((outline * scale, np.full(len(outline), height))) for height, scale in levels]
    )


def panel(
    width: float, depth: float, height: float, *, radius: float = 0.0, bevel: float = 0.0, steps: int = 4
) -> Solid:
    """A board lying on z = 0 round the z axis: corners rounded by `radius` in plan, edges cut by `bevel`."""
    radius = float(np.clip(radius, 0.02 * min(width, depth), 0.4999 * min(width, depth)))
    outline = _rounded_rectangle(width, depth, radius, steps if radius > 0.03 * min(width, depth) else 1)
    bevel = float(min(bevel, 0.45 * height, 0.3 * min(width, depth)))
    if bevel <= 0:
        return loft(_stack(outline, ((0.0, 1.0), (height, 1.0))))
    inset = np.array((1 - 2 * bevel / width, 1 - 2 * bevel / depth))
    return loft(_stack(outline, ((0.0, inset), (bevel, 1.0), (height - bevel, 1.0), (height, inset))))


def box(low: Point, high: Point, *, bevel: float = 0.012) -> Solid:
    """The box between two corners, its edges cut by `bevel`."""
    low, high = np.asarray(low, np.float64), np.asarray(high, np.float64)
    width, depth, height = high - low
    middle = (low + high) / 2
    part = panel(width, depth, height, radius=bevel, bevel=bevel, steps=1)
    return part.moved(middle[0], middle[1], low[2])


def cushion(low: Point, high: Point, *, power: float = 5.0, cells: int = 6) -> Solid:
    """A stuffed box between two corners: |x|^p + |y|^p + |z|^p = 1, softer for a smaller power."""
    low, high = np.asarray(low, np.float64), np.asarray(high, np.float64)
    steps = np.tan(np.linspace(-1, 1, cells + 1) * np.pi / 4)  # even in angle: cells of nearly one size
    index: dict[tuple[int, ...], int] = {}
    points: list[tuple[float, ...]] = []

    def vertex(place: tuple[int, ...]) -> int:
        if place not in index:
            index[place] = len(points)
            points.append(tuple(steps[i] for i in place))
        return index[place]

    faces = []
    for axis in range(3):
        for end in (0, cells):
            for i in range(cells):
                for j in range(cells):
                    quad = []
                    for di, dj in ((0, 0), (1, 0), (1, 1), (0, 1)):
                        place = [0, 0, 0]
                        place[axis], place[(axis + 1) % 3], place[(axis + 2) % 3] = end, i + di, j + dj
                        quad.append(vertex(tuple(place)))
                    quad = quad if end else quad[::-1]
                    faces += [(quad[0], quad[1], quad[2]), (quad[0], quad[2], quad[3])]
    cube = np.array(points)
    ball = cube / ((np.abs(cube) ** power).sum(axis=-1, keepdims=True) ** (1 / power))
    return Solid((low + high) / 2 + ball * (high - low) / 2, np.array(faces))


def pole(profile: Sequence[tuple[float, float]], *, sides: int = 16) -> Solid:
    """A turned solid round the z axis through (height, radius) pairs; sides: corners of its ring."""
    angles = (np.arange(sides) + 0.5) * 2 * np.pi / sides
    outline = np.stack((np.cos(angles), np.sin(angles)), axis=-1)
    return loft(_stack(outline, profile))


def tube(path: Array, radii: float | Sequence[float], *, sides: int = 12, flatness: float = 1.0) -> Solid:
    """A round bar along a path [M, 3]; `flatness` scales one of its widths (1 is round)."""
    path = np.asarray(path, np.float64)
    radius = np.broadcast_to(np.asarray(radii, np.float64), (len(path),))
    tangents = np.gradient(path, axis=0)
    tangents /= np.linalg.norm(tangents, axis=-1, keepdims=True)
    helper = np.eye(3)[np.argmin(np.abs(tangents).max(axis=0))]
    across = np.cross(tangents, helper)
    across /= np.linalg.norm(across, axis=-1, keepdims=True)
    up = np.cross(tangents, across)
    angles = (np.arange(sides) + 0.5) * 2 * np.pi / sides
    ring = across[:, None] * np.cos(angles)[:, None] + flatness * up[:, None] * np.sin(angles)[:, None]
    return loft(path[:, None] + radius[:, None, None] * ring)


def rod(start: Point, end: Point, radii: float | tuple[float, float], *, sides: int = 10) -> Solid:
    """A straight round bar between two points; sides = 4 makes it square."""
    ends = np.array((start, end), np.float64)
    if sides == 4:  # a square bar keeps its corners where the eye expects its sides
        radii = tuple(np.sqrt(2) * np.broadcast_to(np.asarray(radii, np.float64), (2,)))
    return tube(ends, radii, sides=sides)
