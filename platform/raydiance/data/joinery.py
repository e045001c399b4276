"""What furniture is put together from: materials, legs, feet, seats and backs.

Lengths in metres, +Z up, the front towards -Y. Every function adds closed parts to the piece it is given.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from raydiance.data import patterns
from raydiance.data.captions import count_word
from raydiance.data.meshes import Bytes, Mesh
from raydiance.data.solids import Solid, box, cushion, panel, pole, rod, tube

__all__ = [
    "FABRICS",
    "METALS",
    "PAINTS",
    "Material",
    "Piece",
    "add_back",
    "add_legs",
    "add_pedestal",
    "add_seat",
    "add_sled",
    "add_stretchers",
    "corner_spots",
    "fabric",
    "paint",
    "wood",
]

Array = NDArray[np.float64]
Rng = np.random.Generator

WOODS = (
    (0.82, 0.64, 0.43),  # oak
    (0.89, 0.75, 0.54),  # pine
    (0.64, 0.37, 0.23),  # cherry
    (0.50, 0.34, 0.23),  # walnut
    (0.30, 0.23, 0.19),  # smoked oak
)
PAINTS = (
    (0.94, 0.93, 0.90),  # white
    (0.17, 0.17, 0.19),  # black
    (0.55, 0.68, 0.62),  # sage
    (0.20, 0.36, 0.48),  # petrol
    (0.85, 0.68, 0.30),  # mustard
    (0.76, 0.40, 0.30),  # terracotta
    (0.86, 0.66, 0.62),  # blush
    (0.35, 0.52, 0.68),  # sky
)
FABRICS = (
    (0.72, 0.70, 0.66),  # linen
    (0.36, 0.39, 0.43),  # graphite
    (0.24, 0.42, 0.44),  # teal
    (0.78, 0.52, 0.26),  # ochre
    (0.66, 0.28, 0.26),  # brick
    (0.30, 0.36, 0.55),  # indigo
    (0.46, 0.55, 0.38),  # moss
    (0.80, 0.62, 0.62),  # rose
)
METALS = ((0.20, 0.20, 0.22), (0.72, 0.73, 0.75), (0.78, 0.63, 0.38), (0.92, 0.92, 0.92))
CREAM = (0.93, 0.90, 0.83)


@dataclass(frozen=True)
class Material:
    """What a part is covered with: one colour, or a picture with a scale in repeats per metre."""

    colour: tuple[float, float, float] = (1.0, 1.0, 1.0)
    picture: Bytes | None = None
    repeats: float = 3.0


@dataclass
class Piece:
    """The parts of one piece of furniture while it is being built."""

    rng: Rng
    parts: list[Mesh] = field(default_factory=list)
    traits: list[str] = field(default_factory=list)  # what its caption tells of it

    def add(self, material: Material, *solids: Solid) -> None:
        """Adds closed parts covered with the material."""
        self.parts += [_covered(solid, material, self.rng) for solid in solids]

    def length(self, low: float, high: float) -> float:
        """A length drawn evenly from [low, high]."""
        return float(self.rng.uniform(low, high))

    def chance(self, probability: float) -> bool:
        """True with this probability."""
        return bool(self.rng.uniform() < probability)

    def pick(self, *names: str) -> str:
        """One of the names."""
        return names[int(self.rng.integers(len(names)))]


def _covered(solid: Solid, material: Material, rng: Rng) -> Mesh:
    """The part with colours or, projected along the main axis of each face, with the picture."""
    colour = tuple(round(255 * value) for value in material.colour)
    flat = Mesh.flat(solid.vertices, solid.faces, colour)
    if material.picture is None:
        return flat
    corners = solid.vertices[solid.faces]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    facing = np.abs(normals).argmax(axis=-1)
    grain = int(np.ptp(solid.vertices, axis=0).argmax())  # wood runs along the longest side
    first = np.where(facing == grain, (facing + 1) % 3, grain)
    second = 3 - facing - first
    rows = np.arange(len(corners))[:, None]
    axes = np.stack((first, second), axis=-1)[:, None, :]
    uv = corners[rows[..., None], np.arange(3)[None, :, None], axes] * material.repeats + rng.uniform(size=2)
    return Mesh(
        vertices=flat.vertices,
        faces=flat.faces,
        colours=flat.colours,
        uv=uv.astype(np.float32),
        face_texture=np.zeros(len(flat.faces), np.int32),
        textures=(material.picture,),
    )


def _tint(colours: Sequence[tuple[float, float, float]], rng: Rng) -> Array:
    """One of the colours, a little lighter or darker and warmer or colder."""
    base = np.array(colours[int(rng.integers(len(colours)))])
    return np.clip(base * rng.uniform(0.9, 1.08) + rng.uniform(-0.025, 0.025, 3), 0.05, 0.97)


def paint(colours: Sequence[tuple[float, float, float]], rng: Rng) -> Material:
    red, green, blue = _tint(colours, rng)
    return Material(colour=(float(red), float(green), float(blue)))


def wood(rng: Rng) -> Material:
    """Wood with a grain, or painted."""
    if rng.uniform() < 0.25:
        return paint(PAINTS, rng)
    return Material(picture=patterns.wood(_tint(WOODS, rng), rng), repeats=float(rng.uniform(2.0, 4.0)))


def fabric(rng: Rng, *, calm: bool = False) -> Material:
    """Cloth: half of it plain, the rest with a pattern; calm cloth is always plain."""
    kind = "plain" if calm or rng.uniform() < 0.5 else str(rng.choice(patterns.CLOTHS[1:]))
    first = _tint(FABRICS, rng)
    second = np.asarray(CREAM) if rng.uniform() < 0.6 else _tint(FABRICS, rng)
    second = 0.35 * first + 0.65 * second
    return Material(picture=patterns.cloth(kind, first, second, rng), repeats=float(rng.uniform(2.5, 4.5)))


def corner_spots(width: float, depth: float, inset: float) -> list[tuple[float, float]]:
    x, y = width / 2 - inset, depth / 2 - inset
    return [(x, y), (-x, y), (-x, -y), (x, -y)]


def add_legs(piece: Piece, material: Material, corners: Sequence[tuple[float, float]], height: float) -> str:
    """Legs under the corners in one of five shapes; the name of the shape is returned."""
    shape = piece.pick("square", "tapered", "splayed", "turned", "hairpin")
    radius = piece.length(0.017, 0.028) * (1.25 if height > 0.55 else 1.0)
    piece.traits.append(f"{count_word(len(corners))} {shape} legs")
    for x, y in corners:
        outward = np.array((np.sign(x) * 0.055, np.sign(y) * 0.055, 0.0)) * height / 0.45
        top, foot = np.array((x, y, height)), np.array((x, y, 0.0))
        if shape == "square":
            piece.add(
                material, box((x - radius, y - radius, 0), (x + radius, y + radius, height), bevel=0.005)
            )
        elif shape == "tapered":
            piece.add(material, rod(foot, top, (0.6 * radius, 1.15 * radius), sides=4))
        elif shape == "splayed":
            piece.add(material, rod(foot + outward, top, (0.6 * radius, 1.1 * radius), sides=12))
        elif shape == "turned":
            piece.add(material, _turned(radius, height).moved(x, y))
        else:
            wire = np.array((-outward[1], outward[0], 0.0)) * 0.9
            foot = foot + outward * 0.6
            path = np.stack(
                (top + wire, foot + wire * 0.15 + (0, 0, 0.008), foot - wire * 0.15 + (0, 0, 0.008))
            )
            path = np.concatenate((path, (top - wire)[None]))
            piece.add(material, tube(path, 0.45 * radius, sides=8))
    return shape


def _turned(radius: float, height: float) -> Solid:
    """A leg from the lathe: foot, neck, belly, rings and a square-ish head."""
    belly = ((0.0, 0.55), (0.06, 0.75), (0.12, 0.6), (0.45, 1.05), (0.62, 1.25), (0.66, 0.85))
    shape = (*belly, (0.69, 1.2), (0.72, 0.85), (0.76, 1.2), (1.0, 1.2))
    return pole([(height * at, radius * wide) for at, wide in shape], sides=12)


def add_stretchers(
    piece: Piece, material: Material, corners: Sequence[tuple[float, float]], height: float
) -> None:
    """Bars that join the legs in an H or in a square, at a third of their height."""
    (x, y), level = corners[0], piece.length(0.25, 0.42) * height
    bars: list[tuple[tuple[float, float, float], tuple[float, float, float]]]
    bars = [((x, y, level), (x, -y, level)), ((-x, y, level), (-x, -y, level))]
    if piece.chance(0.5):
        bars.append(((x, 0, level), (-x, 0, level)))
    else:
        bars += [((x, side, level + 0.04), (-x, side, level + 0.04)) for side in (y, -y)]
    piece.add(material, *(rod(start, end, 0.011) for start, end in bars))


def add_sled(piece: Piece, material: Material, width: float, depth: float, height: float) -> None:
    """Two hoops of bent tube that stand on the floor from front to back."""
    piece.traits.append("a sled base")
    radius, bend = piece.length(0.011, 0.017), 0.06
    turn = np.linspace(0, np.pi / 2, 5)
    for x in (-width / 2 + 0.03, width / 2 - 0.03):
        y, floor = depth / 2 - 0.03, radius
        front = [(x, bend * (1 - np.cos(a)) - y, floor + bend * (1 - np.sin(a))) for a in turn]
        back = [(x, -py, pz) for _, py, pz in reversed(front)]
        path = np.array([(x, -y, height), *front, *back, (x, y, height)])
        piece.add(material, tube(path, radius, sides=10))


def add_pedestal(piece: Piece, material: Material, reach: float, height: float) -> None:
    """One column on a disc or on a star of feet."""
    piece.traits.append("a pedestal")
    radius = piece.length(0.024, 0.04) * (1 + reach)
    if piece.chance(0.5):
        profile = [(0.0, reach), (0.012, reach), (0.03, 0.55 * reach), (0.07, 1.3 * radius), (0.16, radius)]
        piece.add(material, pole([*profile, (height, radius)], sides=24))
        return
    piece.add(material, pole([(0.06, radius), (height * 0.6, radius), (height, 1.5 * radius)], sides=16))
    count = int(piece.rng.integers(4, 6))
    for index in range(count):
        angle = 2 * np.pi * (index + 0.5) / count
        way = np.array((np.cos(angle), np.sin(angle), 0.0))
        path = np.stack(
            (
                way * 0.5 * radius + (0, 0, 0.11),
                way * 0.55 * reach + (0, 0, 0.06),
                way * reach + (0, 0, 0.018),
            )
        )
        piece.add(material, tube(path, (0.022, 0.019, 0.015), sides=10))


def add_seat(
    piece: Piece, frame: Material, cloth: Material, width: float, depth: float, height: float
) -> None:
    """A board, a board with a cushion, or a thick pad, its top at `height`."""
    style = piece.pick("board", "cushion", "pad")
    radius = piece.length(0.01, 0.14)
    if style == "pad":
        low, high = (-width / 2, -depth / 2, height - 0.085), (width / 2, depth / 2, height)
        piece.add(cloth, cushion(low, high, power=piece.length(4, 9)))
        return
    thick = piece.length(0.025, 0.045)
    top = height if style == "board" else height - 0.035
    board = panel(width, depth, thick, radius=radius, bevel=0.007).moved(0, 0, top - thick)
    piece.add(frame, board)
    if style == "cushion":
        low = (-0.47 * width, -0.47 * depth, top - 0.03)
        piece.add(cloth, cushion(low, (0.47 * width, 0.47 * depth, height + 0.012), power=4.5))


def add_back(piece: Piece, frame: Material, cloth: Material, width: float, depth: float, seat: float) -> None:
    """A back rest in one of six styles, leaning backwards, from the seat up."""
    style = piece.pick("panel", "slats", "ladder", "spindles", "pad", "cross")
    rise, lean, y = piece.length(0.36, 0.58), piece.length(5, 14), depth / 2 - 0.025
    post, half = piece.length(0.016, 0.022), width / 2 - 0.025
    solids: list[tuple[Material, Solid]] = []

    def bar(x0: float, z0: float, x1: float, z1: float, thick: float) -> Solid:
        return rod((x0, y, seat + z0), (x1, y, seat + z1), thick, sides=8)

    def board(low: float, high: float, reach: float = 1.0) -> Solid:
        part = panel(2 * half * reach, high - low, 0.02, radius=0.35 * (high - low), bevel=0.005)
        return part.bent(0, 2, 0.02).turned(0, 90).moved(0, y, seat + (low + high) / 2)

    if style in ("slats", "ladder", "cross", "spindles"):
        posts = [bar(side * half, -0.05, side * half, rise, post) for side in (-1, 1)]
        solids += [(frame, part) for part in posts]
        solids.append((frame, board(rise - piece.length(0.06, 0.11), rise + 0.015, 1.06)))
    if style == "panel":
        low = piece.length(0.0, 0.2)
        solids.append((frame, board(low, rise, 1.08)))
        if low > 0.02:
            solids += [(frame, bar(s * 0.6 * half, -0.05, s * 0.7 * half, low + 0.1, post)) for s in (-1, 1)]
    elif style == "slats":
        count = int(piece.rng.integers(3, 7))
        for x in np.linspace(-half, half, count + 2)[1:-1]:
            part = box(
                (x - 0.55 * half / count, y - 0.008, seat - 0.03),
                (x + 0.55 * half / count, y + 0.008, seat + rise - 0.03),
            )
            solids.append((frame, part))
    elif style == "ladder":
        count = int(piece.rng.integers(2, 5))
        for z in np.linspace(0.12, rise - 0.12, count):
            solids.append((frame, board(z - 0.025, z + 0.025)))
    elif style == "spindles":
        count = int(piece.rng.integers(4, 8))
        for x in np.linspace(-0.82 * half, 0.82 * half, count):
            solids.append((frame, bar(0.9 * x, -0.03, x, rise - 0.03, 0.008)))
    elif style == "cross":
        solids += [(frame, bar(s * half, 0.03, -s * half, rise - 0.08, 0.011)) for s in (-1, 1)]
    else:
        low = piece.length(0.0, 0.14)
        shape = cushion((-half - 0.02, y - 0.04, seat + low), (half + 0.02, y + 0.035, seat + rise), power=5)
        solids.append((cloth, shape.bent(0, 1, -0.03)))
        if low > 0.02:
            solids += [(frame, bar(s * 0.6 * half, -0.05, s * 0.6 * half, low + 0.1, post)) for s in (-1, 1)]
    for material, solid in solids:
        piece.add(material, solid.turned(0, -lean, (0, y, seat)))
