"""A seeded generator of articulated objects: lamps, doors, scissors and swivel chairs, in random poses.

Lengths in metres, +Z up. Each part is a rigid body, built in the rest pose, and hangs on an earlier part (or on
the world) by a hinge. The pose of part p, x_posed = R_p x_rest + t_p, is A_p = A_parent(p) H_p(angle_p), where H_p
turns about the hinge of p as it lies at rest.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from raydiance.data.joinery import METALS, PAINTS, Piece, fabric, paint, wood
from raydiance.data.meshes import Mesh, merge
from raydiance.data.solids import Solid, box, cushion, panel, pole, rod, tube
from raydiance.errors import DataError

__all__ = ["KINDS", "Articulated", "Hinge", "Performance", "in_pose", "perform", "surface_points"]

Array = NDArray[np.float64]
Point = tuple[float, float, float]

FILL = 0.95  # of the unit ball, by all poses together


@dataclass(frozen=True)
class Hinge:
    """Turns a part by an angle in low..high degrees about an axis through a pivot, as they lie at rest."""

    pivot: Point
    axis: int
    low: float
    high: float
    parent: int = -1  # the part that it is fixed to; -1: the world

    def turn(self, degrees: float) -> Array:
        """H [3, 4]."""
        angle, i, j = np.radians(degrees), (self.axis + 1) % 3, (self.axis + 2) % 3
        rotation = np.eye(3)
        rotation[i, i] = rotation[j, j] = np.cos(angle)
        rotation[i, j], rotation[j, i] = -np.sin(angle), np.sin(angle)
        pivot = np.asarray(self.pivot)
        return np.column_stack((rotation, pivot - rotation @ pivot))


FIXED = Hinge((0.0, 0.0, 0.0), 2, 0.0, 0.0)


@dataclass(frozen=True)
class Articulated:
    """P named parts at rest, each with the hinge that it hangs on; parents come before their children."""

    names: tuple[str, ...]
    parts: tuple[Mesh, ...]
    hinges: tuple[Hinge, ...]

    def poses(self, angles: Sequence[float] | Array) -> Array:
        """[P, 3, 4], of angles in degrees [P]."""
        found: list[Array] = []
        for hinge, angle in zip(self.hinges, angles, strict=True):
            turn = hinge.turn(float(angle))
            found.append(turn if hinge.parent < 0 else _after(found[hinge.parent], turn))
        return np.stack(found)


@dataclass(frozen=True)
class Performance:
    """An object in F random poses, scaled so that all of them lie in the unit ball: poses [F, P, 3, 4]."""

    kind: str
    names: tuple[str, ...]
    parts: tuple[Mesh, ...]
    poses: Array


def perform(kind: str, seed: int, num_poses: int) -> Performance:
    """An object of a kind in random poses, the same for the same arguments. DataError for an unknown kind."""
    if kind not in _BUILDERS:
        raise DataError(f"there is no articulated {kind!r}: choose of {', '.join(KINDS)}")
    rng = np.random.default_rng((seed, KINDS.index(kind), 5))
    built = _BUILDERS[kind](rng)
    low, high = (np.array([getattr(hinge, end) for hinge in built.hinges]) for end in ("low", "high"))
    poses = np.stack([built.poses(rng.uniform(low, high)) for _ in range(num_poses)])
    return _into_unit_ball(kind, built, poses)


def in_pose(parts: Sequence[Mesh], poses: Array) -> Mesh:
    """The parts, moved by poses [P, 3, 4], as one mesh."""
    return merge([_moved(part, pose) for part, pose in zip(parts, poses, strict=True)])


def surface_points(parts: Sequence[Mesh], count: int, seed: int) -> Array:
    """`count` points on each part at rest, even in area: [P, count, 3]."""
    rng, found = np.random.default_rng(seed), []
    for part in parts:
        area = np.linalg.norm(part.face_normals(), axis=-1)
        face = rng.choice(len(area), count, p=area / area.sum())
        u, v = np.sort(rng.uniform(size=(2, count)), axis=0)
        weights = np.stack((u, v - u, 1 - v), axis=-1)
        found.append((weights[..., None] * part.vertices[part.faces[face]]).sum(axis=1))
    return np.stack(found)


def _after(outer: Array, inner: Array) -> Array:
    """The motion `inner` and then `outer`."""
    return np.column_stack((outer[:, :3] @ inner[:, :3], outer[:, :3] @ inner[:, 3] + outer[:, 3]))


def _moved(part: Mesh, pose: Array) -> Mesh:
    return replace(part, vertices=(part.vertices @ pose[:, :3].T + pose[:, 3]).astype(np.float32))


def _into_unit_ball(kind: str, built: Articulated, poses: Array) -> Performance:
    points = np.concatenate([in_pose(built.parts, pose).vertices for pose in poses]).astype(np.float64)
    center = (points.max(axis=0) + points.min(axis=0)) / 2
    scale = FILL / np.linalg.norm(points - center, axis=-1).max()
    parts = tuple(
        replace(p, vertices=((p.vertices - center) * scale).astype(np.float32)) for p in built.parts
    )
    rotations = poses[..., :3]
    shifts = scale * (poses[..., 3] + rotations @ center - center)
    return Performance(kind, built.names, parts, np.concatenate((rotations, shifts[..., None]), axis=-1))


def _built(pieces: dict[str, tuple[Piece, Hinge]]) -> Articulated:
    meshes = tuple(merge(piece.parts) for piece, _ in pieces.values())
    return Articulated(tuple(pieces), meshes, tuple(hinge for _, hinge in pieces.values()))


def _lamp(rng: np.random.Generator) -> Articulated:
    """A desk lamp: foot, two arms, shade; all hinges lie along Y."""
    foot, lower, upper, shade = (Piece(rng) for _ in range(4))
    metal, bright = paint(METALS, rng), paint(PAINTS, rng)
    reach = foot.length(0.28, 0.36)
    elbow, wrist = (-0.3 * reach, 0.0, 0.04 + 0.95 * reach), (0.75 * reach, 0.0, 0.04 + 1.45 * reach)
    foot.add(metal, pole([(0.0, 0.13), (0.02, 0.13), (0.035, 0.11)], sides=24))
    foot.add(metal, rod((0, 0, 0.03), (0, 0, 0.06), 0.03))
    lower.add(bright, rod((0, 0, 0.04), elbow, 0.022), _axle(elbow, 0.03, 0.035))
    upper.add(metal, rod(elbow, wrist, 0.02))
    cone = pole([(-0.13, 0.12), (-0.05, 0.085), (0.01, 0.04), (0.03, 0.038)], sides=24).turned(1, -25)
    shade.add(paint(PAINTS, rng), cone.moved(*wrist))
    return _built(
        {
            "foot": (foot, FIXED),
            "lower arm": (lower, Hinge((0, 0, 0.04), 1, -30, 35, parent=0)),
            "upper arm": (upper, Hinge(elbow, 1, -40, 45, parent=1)),
            "shade": (shade, Hinge(wrist, 1, -50, 40, parent=2)),
        }
    )


def _door(rng: np.random.Generator) -> Articulated:
    """A stable door: a frame, in which an upper and a lower leaf turn about one upright axis."""
    frame, lower, upper = (Piece(rng) for _ in range(3))
    timber, metal = wood(rng), paint(METALS, rng)
    x, height, thick = frame.length(0.36, 0.44), frame.length(1.35, 1.6), 0.05
    cut = frame.length(0.45, 0.6) * height
    posts = [(s * (x + 0.04) - 0.04, s * (x + 0.04) + 0.04) for s in (-1, 1)]
    frame.add(timber, *(box((a, -0.06, 0), (b, 0.06, height + 0.09)) for a, b in posts))
    frame.add(timber, box((-x - 0.08, -0.06, height), (x + 0.08, 0.06, height + 0.09)))
    frame.add(timber, box((-x - 0.08, -0.06, -0.05), (x + 0.08, 0.06, 0.0)))
    for leaf, low, high in ((lower, 0.01, cut - 0.01), (upper, cut + 0.01, height - 0.01)):
        colour = paint(PAINTS, rng)
        solids = [box((-x, -thick / 2, low), (x, thick / 2, high))]
        leaf.add(colour, *(_swung(solid, -x) for solid in solids))
        z = (low + high) / 2
        knob = cushion((x - 0.14, -0.1, z - 0.05), (x - 0.04, 0.1, z + 0.05), power=2.5)
        leaf.add(metal, _swung(knob, -x))
    pivot = (-x, 0.0, 0.0)
    return _built(
        {
            "frame": (frame, FIXED),
            "lower leaf": (lower, Hinge(pivot, 2, -48, 48, parent=0)),
            "upper leaf": (upper, Hinge(pivot, 2, -48, 48, parent=0)),
        }
    )


def _swung(solid: Solid, x: float) -> Solid:
    """Half open, which is how a leaf rests."""
    return solid.turned(2, -50, (x, 0.0, 0.0))


def _scissors(rng: np.random.Generator) -> Articulated:
    """Two blades with their handles, standing on their points, that turn about a pin along Y."""
    pieces = {}
    steel, length = paint(METALS[1:2], rng), float(rng.uniform(0.95, 1.1))
    for name, side in (("left blade", -1), ("right blade", 1)):
        blade, y = Piece(rng), side * 0.022
        flat = panel(0.14, 0.04, length, radius=0.018, bevel=0.01).moved(0, y, -length)
        bent = flat.vertices.copy()
        bent[:, 0] *= 1 + 0.75 * np.minimum(bent[:, 2], 0) / length  # narrow towards the point
        blade.add(steel, Solid(bent, flat.faces))
        ring = np.linspace(0, 2 * np.pi, 25)
        centre, radius = np.array((0.07 * side, y, 0.62)), 0.15
        loop = centre + radius * np.stack((np.cos(ring), 0 * ring, 1.25 * np.sin(ring)), axis=-1)
        colour = paint(PAINTS[2:], rng)
        blade.add(colour, tube(loop, 0.045), rod((0, y, -0.04), (0.05 * side, y, 0.47), 0.05))
        tilted = replace(blade, parts=[_tilted(part, 22 * side) for part in blade.parts])
        pieces[name] = (tilted, Hinge((0, 0, 0), 1, -20, 20))
    return _built(pieces)


def _tilted(part: Mesh, degrees: float) -> Mesh:
    """Half open, which is how scissors rest."""
    return _moved(part, Hinge((0, 0, 0), 1, 0, 0).turn(degrees))


def _swivel_chair(rng: np.random.Generator) -> Articulated:
    """A star on the floor, a seat that turns on it, a back that leans."""
    star, seat, back = (Piece(rng) for _ in range(3))
    metal, cloth = paint(METALS, rng), fabric(rng, calm=True)
    reach, height = star.length(0.3, 0.36), star.length(0.42, 0.5)
    for angle in np.arange(5) * 2 * np.pi / 5 + 0.3:
        x, y = reach * float(np.cos(angle)), reach * float(np.sin(angle))
        star.add(metal, rod((0, 0, 0.12), (x, y, 0.06), (0.035, 0.025)))
        star.add(metal, cushion((x - 0.04, y - 0.04, 0), (x + 0.04, y + 0.04, 0.08), power=2.2, cells=4))
    star.add(metal, rod((0, 0, 0.08), (0, 0, height - 0.06), 0.035))
    wide = seat.length(0.24, 0.28)
    seat.add(cloth, cushion((-wide, -wide, height - 0.06), (wide, wide, height + 0.06), power=6))
    arm = paint(PAINTS, rng)
    for side in (-1, 1):
        x, rise = side * (wide + 0.02), height + 0.22
        seat.add(arm, rod((x, 0.02, height - 0.02), (x, 0.02, rise), 0.022))
        seat.add(arm, box((x - 0.03, -0.16, rise), (x + 0.03, 0.14, rise + 0.04)))
    pivot = (0.0, wide - 0.02, height + 0.02)
    cover = fabric(rng, calm=True)
    low, high = (-0.9 * wide, wide - 0.06, height + 0.1), (0.9 * wide, wide + 0.05, height + 0.6)
    back.add(cover, cushion(low, high, power=5))
    back.add(metal, rod(pivot, (0.0, wide, height + 0.2), 0.03))
    return _built(
        {
            "star": (star, FIXED),
            "seat": (seat, Hinge((0, 0, 0), 2, -150, 150, parent=0)),
            "back": (back, Hinge(pivot, 0, -35, 12, parent=1)),
        }
    )


def _axle(centre: Point, radius: float, half: float) -> Solid:
    x, y, z = centre
    return rod((x, y - half, z), (x, y + half, z), radius)


_BUILDERS: dict[str, Callable[[np.random.Generator], Articulated]] = {
    "lamp": _lamp,
    "door": _door,
    "scissors": _scissors,
    "swivel_chair": _swivel_chair,
}
KINDS: tuple[str, ...] = tuple(_BUILDERS)
