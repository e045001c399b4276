"""A seeded generator of furniture: chairs, armchairs, stools, tables, sofas and shelves.

Lengths in metres, +Z up, standing on z = 0, the front towards -Y. A piece is a union of closed parts, each wound
outwards; the parts may run into one another, as joined wood does.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from raydiance.data import patterns
from raydiance.data.meshes import Bytes, Mesh, merge
from raydiance.data.solids import Solid, box, cushion, panel, pole, rod, tube
from raydiance.errors import DataError

__all__ = ["KINDS", "generate", "generate_parts"]

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


def generate(kind: str | None, seed: int) -> Mesh:
    """One piece of furniture of a kind (None: a kind drawn by the seed), the same for the same arguments."""
    return merge(generate_parts(kind, seed))


def generate_parts(kind: str | None, seed: int) -> list[Mesh]:
    """The closed parts of `generate`, one mesh each. Raises DataError for an unknown kind."""
    if kind is None:
        kind = KINDS[int(np.random.default_rng((seed, len(KINDS))).integers(len(KINDS)))]
    if kind not in _BUILDERS:
        raise DataError(f"furniture has no kind {kind!r}: choose one of {', '.join(KINDS)}")
    piece = Piece(np.random.default_rng((seed, KINDS.index(kind))))
    _BUILDERS[kind](piece)
    return piece.parts


def _covered(solid: Solid, material: Material, rng: Rng) -> Mesh:
    """The part with colours or, projected along the main axis of each face, with the picture."""
    colour = tuple(int(round(255 * value)) for value in material.colour)
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


def _plain(colours: Sequence[tuple[float, float, float]], rng: Rng) -> Material:
    red, green, blue = _tint(colours, rng)
    return Material(colour=(float(red), float(green), float(blue)))


def _wood(rng: Rng) -> Material:
    """Wood with a grain, or painted."""
    if rng.uniform() < 0.25:
        return _plain(PAINTS, rng)
    return Material(picture=patterns.wood(_tint(WOODS, rng), rng), repeats=float(rng.uniform(2.0, 4.0)))


def _fabric(rng: Rng, *, calm: bool = False) -> Material:
    """Cloth: half of it plain, the rest with a pattern; calm cloth is always plain."""
    kind = "plain" if calm or rng.uniform() < 0.5 else str(rng.choice(patterns.CLOTHS[1:]))
    first = _tint(FABRICS, rng)
    second = np.asarray(CREAM) if rng.uniform() < 0.6 else _tint(FABRICS, rng)
    second = 0.35 * first + 0.65 * second
    return Material(picture=patterns.cloth(kind, first, second, rng), repeats=float(rng.uniform(2.5, 4.5)))


# Legs -----------------------------------------------------------------------------------------------------------


def _corners(width: float, depth: float, inset: float) -> list[tuple[float, float]]:
    x, y = width / 2 - inset, depth / 2 - inset
    return [(x, y), (-x, y), (-x, -y), (x, -y)]


def _legs(piece: Piece, material: Material, corners: Sequence[tuple[float, float]], height: float) -> str:
    """Legs under the corners in one of five shapes; the name of the shape is returned."""
    shape = piece.pick("square", "tapered", "splayed", "turned", "hairpin")
    radius = piece.length(0.017, 0.028) * (1.25 if height > 0.55 else 1.0)
    for x, y in corners:
        outward = np.array((np.sign(x) * 0.055, np.sign(y) * 0.055, 0.0)) * height / 0.45
        top, foot = np.array((x, y, height)), np.array((x, y, 0.0))
        if shape == "square":
            piece.add(material, box((x - radius, y - radius, 0), (x + radius, y + radius, height), bevel=0.005))
        elif shape == "tapered":
            piece.add(material, rod(foot, top, (0.6 * radius, 1.15 * radius), sides=4))
        elif shape == "splayed":
            piece.add(material, rod(foot + outward, top, (0.6 * radius, 1.1 * radius), sides=12))
        elif shape == "turned":
            piece.add(material, _turned(radius, height).moved(x, y))
        else:
            wire = np.array((-outward[1], outward[0], 0.0)) * 0.9
            foot = foot + outward * 0.6
            path = np.stack((top + wire, foot + wire * 0.15 + (0, 0, 0.008), foot - wire * 0.15 + (0, 0, 0.008)))
            path = np.concatenate((path, (top - wire)[None]))
            piece.add(material, tube(path, 0.45 * radius, sides=8))
    return shape


def _turned(radius: float, height: float) -> Solid:
    """A leg from the lathe: foot, neck, belly, rings and a square-ish head."""
    shape = ((0, 0.55), (0.06, 0.75), (0.12, 0.6), (0.45, 1.05), (0.62, 1.25), (0.66, 0.85))
    shape += ((0.69, 1.2), (0.72, 0.85), (0.76, 1.2), (1.0, 1.2))
    return pole([(height * at, radius * wide) for at, wide in shape], sides=12)


def _stretchers(piece: Piece, material: Material, corners: Sequence[tuple[float, float]], height: float) -> None:
    """Bars that join the legs in an H or in a square, at a third of their height."""
    (x, y), level = corners[0], piece.length(0.25, 0.42) * height
    bars: list[tuple[tuple[float, float, float], tuple[float, float, float]]]
    bars = [((x, y, level), (x, -y, level)), ((-x, y, level), (-x, -y, level))]
    if piece.chance(0.5):
        bars.append(((x, 0, level), (-x, 0, level)))
    else:
        bars += [((x, side, level + 0.04), (-x, side, level + 0.04)) for side in (y, -y)]
    piece.add(material, *(rod(start, end, 0.011) for start, end in bars))


def _sled(piece: Piece, material: Material, width: float, depth: float, height: float) -> None:
    """Two hoops of bent tube that stand on the floor from front to back."""
    radius, bend = piece.length(0.011, 0.017), 0.06
    turn = np.linspace(0, np.pi / 2, 5)
    for x in (-width / 2 + 0.03, width / 2 - 0.03):
        front, floor, y = [], radius, depth / 2 - 0.03
        for angle in turn:
            front.append((x, -y + bend * (1 - np.cos(angle)), floor + bend * (1 - np.sin(angle))))
        back = [(x, -py, pz) for _, py, pz in reversed(front)]
        path = np.array([(x, -y, height), *front, *back, (x, y, height)])
        piece.add(material, tube(path, radius, sides=10))


def _pedestal(piece: Piece, material: Material, reach: float, height: float) -> None:
    """One column on a disc or on a star of feet."""
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
        path = np.stack((way * 0.5 * radius + (0, 0, 0.11), way * 0.55 * reach + (0, 0, 0.06), way * reach + (0, 0, 0.018)))
        piece.add(material, tube(path, (0.022, 0.019, 0.015), sides=10))


# Seats and backs ------------------------------------------------------------------------------------------------


def _seat(piece: Piece, frame: Material, cloth: Material, width: float, depth: float, height: float) -> None:
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


def _back(piece: Piece, frame: Material, cloth: Material, width: float, depth: float, seat: float) -> None:
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
            part = box((x - 0.55 * half / count, y - 0.008, seat - 0.03), (x + 0.55 * half / count, y + 0.008, seat + rise - 0.03))
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


# Kinds ----------------------------------------------------------------------------------------------------------


def _chair_body(piece: Piece, width: float) -> tuple[Material, float, float]:
    """Legs, seat and back; the frame's material, the depth and the height of the seat are returned."""
    frame, cloth = _wood(piece.rng), _fabric(piece.rng)
    depth, height = piece.length(0.40, 0.48), piece.length(0.42, 0.48)
    base = piece.pick("legs", "legs", "legs", "legs", "sled", "pedestal")
    metal = _plain(METALS, piece.rng)
    if base == "sled":
        _sled(piece, metal, width, depth, height - 0.02)
    elif base == "pedestal":
        _pedestal(piece, metal, 0.27, height - 0.03)
    else:
        corners = _corners(width, depth, 0.035)
        shape = _legs(piece, frame, corners, height - 0.02)
        if shape in ("square", "turned") and piece.chance(0.5):
            _stretchers(piece, frame, corners, height)
    _seat(piece, frame, cloth, width, depth, height)
    _back(piece, frame, cloth, width, depth, height)
    return frame, depth, height


def _chair(piece: Piece) -> None:
    _chair_body(piece, piece.length(0.40, 0.50))


def _armchair(piece: Piece) -> None:
    if piece.chance(0.45):
        _upholstered(piece, seats=1)
        return
    width = piece.length(0.48, 0.58)
    frame, depth, seat = _chair_body(piece, width)
    rise, x = piece.length(0.18, 0.25), width / 2 + 0.005
    for side in (-1, 1):
        rest = panel(0.055, depth * 0.98, 0.026, radius=0.025, bevel=0.006)
        piece.add(frame, rest.moved(side * x, -0.01, seat + rise))
        piece.add(frame, rod((side * x, -depth / 2 + 0.05, seat - 0.03), (side * x, -depth / 2 + 0.06, seat + rise + 0.01), 0.016))
        piece.add(frame, rod((side * x, depth / 4, seat - 0.03), (side * x, depth / 4, seat + rise + 0.01), 0.013))


def _stool(piece: Piece) -> None:
    height, radius = float(piece.rng.choice((0.45, 0.62, 0.75))) * piece.length(0.95, 1.05), piece.length(0.15, 0.21)
    frame, cloth = _wood(piece.rng), _fabric(piece.rng)
    count = 3 if piece.chance(0.35) else 4
    if piece.chance(0.25):
        _pedestal(piece, _plain(METALS, piece.rng), 0.9 * radius + 0.03, height - 0.03)
    else:
        angles = 2 * np.pi * (np.arange(count) + 0.5) / count
        corners = [(0.68 * radius * float(np.cos(a)), 0.68 * radius * float(np.sin(a))) for a in angles]
        _legs(piece, frame, corners, height - 0.02)
        if height > 0.55 or piece.chance(0.3):
            ring = np.linspace(0, 2 * np.pi, count, endpoint=False) + np.pi / count
            feet = [np.array((0.75 * radius * np.cos(a), 0.75 * radius * np.sin(a), 0.3 * height)) for a in ring]
            piece.add(frame, *(rod(feet[i], feet[(i + 1) % count], 0.009) for i in range(count)))
    if piece.chance(0.5):
        profile = [(-0.035, 0.93 * radius), (-0.02, radius), (-0.006, radius), (0.0, 0.94 * radius)]
        piece.add(frame, pole([(height + at, wide) for at, wide in profile], sides=28))
    elif piece.chance(0.6):
        angles = np.linspace(-np.pi / 2, np.pi / 2, 9)
        thick = piece.length(0.03, 0.055)
        dome = [(height - thick + thick * float(np.sin(a)), radius * float(max(np.cos(a), 0.03)) ** 0.35) for a in angles]
        piece.add(cloth, pole(dome, sides=28))
    else:
        low, high = (-radius, -radius, height - 0.08), (radius, radius, height)
        piece.add(cloth, cushion(low, high, power=piece.length(4, 8)))


def _round_table(piece: Piece) -> None:
    height, radius = piece.pick("low", "high"), piece.length(0.32, 0.55)
    top = piece.length(0.38, 0.5) if height == "low" else piece.length(0.68, 0.76)
    board, thick = _wood(piece.rng), piece.length(0.02, 0.045)
    edge = min(0.01, 0.4 * thick)
    profile = [(top - thick, radius - edge), (top - thick + edge, radius), (top - edge, radius), (top, radius - edge)]
    piece.add(board, pole(profile, sides=40))
    under = board if piece.chance(0.6) else _plain(METALS, piece.rng)
    if piece.chance(0.35):
        _pedestal(piece, under, 0.62 * radius, top - thick + 0.005)
        return
    count = 3 if piece.chance(0.35) else 4
    angles = 2 * np.pi * (np.arange(count) + 0.5) / count
    reach = piece.length(0.62, 0.8) * radius
    corners = [(reach * float(np.cos(a)), reach * float(np.sin(a))) for a in angles]
    _legs(piece, under, corners, top - 0.5 * thick)
    if height == "low" and piece.chance(0.4):
        shelf = [(0.3 * top, 0.95 * reach), (0.3 * top + 0.018, 0.95 * reach)]
        piece.add(board, pole(shelf, sides=32))


def _square_table(piece: Piece) -> None:
    low = piece.chance(0.4)
    width = piece.length(0.6, 1.15)
    depth = width * piece.length(0.55, 1.0)
    top, thick = (piece.length(0.36, 0.46) if low else piece.length(0.68, 0.76)), piece.length(0.022, 0.05)
    board = _wood(piece.rng)
    under = board if piece.chance(0.6) else _wood(piece.rng)
    slab = panel(width, depth, thick, radius=piece.length(0.01, 0.1), bevel=0.007).moved(0, 0, top - thick)
    piece.add(board, slab)
    inset = piece.length(0.035, 0.09)
    if piece.chance(0.2):
        _sled(piece, _plain(METALS, piece.rng), width * 0.92, depth * 0.96, top - 0.5 * thick)
        return
    corners = _corners(width, depth, inset)
    shape = _legs(piece, under, corners, top - 0.5 * thick)
    if shape != "hairpin" and piece.chance(0.65):
        x, y = width / 2 - inset, depth / 2 - inset
        deep, z = piece.length(0.05, 0.1), top - thick
        piece.add(under, *(box((-x, s * y - 0.01, z - deep), (x, s * y + 0.01, z + 0.002)) for s in (-1, 1)))
        piece.add(under, *(box((s * x - 0.01, -y, z - deep), (s * x + 0.01, y, z + 0.002)) for s in (-1, 1)))
    if shape in ("square", "turned", "tapered") and low and piece.chance(0.5):
        shelf = panel(width - 2 * inset, depth - 2 * inset, 0.018, radius=0.01).moved(0, 0, 0.28 * top)
        piece.add(board, shelf)


def _sofa(piece: Piece) -> None:
    _upholstered(piece, seats=int(piece.rng.integers(2, 4)))


def _upholstered(piece: Piece, seats: int) -> None:
    """Base, arms, back and cushions in cloth on short legs, with pillows now and then."""
    cloth = _fabric(piece.rng, calm=piece.chance(0.6))
    accent = _fabric(piece.rng)
    seat_width = piece.length(0.52, 0.64)
    arm, leg = piece.length(0.10, 0.19), piece.length(0.07, 0.17)
    width, depth = seats * seat_width + 2 * arm, piece.length(0.78, 0.92)
    seat, back, rest = leg + piece.length(0.27, 0.32), piece.length(0.72, 0.92), piece.length(0.16, 0.26)
    x, y, soft = width / 2, depth / 2, piece.length(6, 14)
    piece.add(cloth, box((-x + 0.02, -y + 0.02, leg), (x - 0.02, y - 0.02, seat - 0.11), bevel=0.02))
    piece.add(cloth, cushion((-x + 0.03, y - 0.24, leg + 0.02), (x - 0.03, y, back), power=soft).turned(0, -4, (0, y, leg)))
    rolled = piece.chance(0.35)
    for side in (-1, 1):
        inner, outer = sorted((side * x, side * (x - arm)))
        piece.add(cloth, cushion((inner, -y, leg), (outer, y - 0.02, seat + rest), power=soft + 2))
        if rolled:
            middle = side * (x - 0.45 * arm)
            roll = pole([(0, 0.62 * arm), (0.02, 0.68 * arm), (depth - 0.06, 0.68 * arm), (depth - 0.04, 0.62 * arm)])
            piece.add(cloth, roll.turned(0, -90).moved(middle, -y + 0.01, seat + rest - 0.02))
    for index in range(seats):
        left = -x + arm + index * seat_width
        low, high = (left + 0.004, -y + 0.005, seat - 0.13), (left + seat_width - 0.004, y - 0.2, seat + 0.02)
        piece.add(cloth, cushion(low, high, power=7))
        low, high = (left + 0.01, y - 0.36, seat - 0.02), (left + seat_width - 0.01, y - 0.16, back - 0.01)
        piece.add(cloth, cushion(low, high, power=4.5).turned(0, -9, (0, y - 0.2, seat)))
    for side in (-1, 1):
        if piece.chance(0.45):
            pillow = cushion((-0.19, -0.06, -0.19), (0.19, 0.06, 0.19), power=2.6).turned(0, -18)
            middle = side * (x - arm - 0.2) if seats > 1 else 0.0
            piece.add(accent, pillow.moved(middle, y - 0.43, seat + 0.2))
            if seats == 1:
                break
    _legs(piece, _wood(piece.rng), _corners(width, depth, 0.09), leg + 0.03)


def _shelf(piece: Piece) -> None:
    frame = _wood(piece.rng)
    width, depth, height = piece.length(0.45, 0.95), piece.length(0.24, 0.34), piece.length(0.7, 1.7)
    thick, x = piece.length(0.018, 0.032), width / 2
    levels = max(2, int(height / piece.length(0.28, 0.4)))
    foot = piece.length(0.03, 0.12)
    heights = np.linspace(foot, height - thick, levels + 1)
    closed = piece.chance(0.6)
    if closed:
        piece.add(frame, *(box((s * x - thick / 2, -depth / 2, 0), (s * x + thick / 2, depth / 2, height)) for s in (-1, 1)))
        if piece.chance(0.7):
            back = _plain(PAINTS, piece.rng) if piece.chance(0.4) else frame
            piece.add(back, box((-x, depth / 2 - 0.014, foot), (x, depth / 2 - 0.002, height - 0.004), bevel=0.002))
    else:
        post = _plain(METALS, piece.rng) if piece.chance(0.5) else frame
        spots = _corners(width, depth, 0.0)
        piece.add(post, *(rod((px, py, 0), (px, py, height + 0.02), 0.013, sides=4) for px, py in spots))
    for z in heights:
        piece.add(frame, box((-x, -depth / 2 + 0.002, z), (x, depth / 2 - 0.004, z + thick), bevel=0.004))
    door = _plain(PAINTS, piece.rng)
    for low, high in zip(heights[:-1], heights[1:]):
        fill = piece.pick("books", "books", "empty", "box", "doors")
        if fill == "books":
            _books(piece, x - thick, depth, low + thick, high)
        elif fill == "box":
            size, at = piece.length(0.5, 0.8) * (high - low - thick), piece.length(-0.5, 0.5) * (x - 0.2)
            piece.add(_fabric(piece.rng), box((at - 0.16, -0.4 * depth, low + thick), (at + 0.16, 0.35 * depth, low + thick + size)))
        elif fill == "doors" and closed:
            for left, right in ((-x + thick / 2, -0.003), (0.003, x - thick / 2)):
                piece.add(door, box((left, -depth / 2 - 0.004, low + thick), (right, -depth / 2 + 0.014, high), bevel=0.004))
                knob = 0.035 if left >= 0 else -0.035
                piece.add(frame, cushion((knob - 0.012, -depth / 2 - 0.03, (low + high) / 2), (knob + 0.012, -depth / 2, (low + high) / 2 + 0.024), power=2, cells=3))


def _books(piece: Piece, reach: float, depth: float, low: float, high: float) -> None:
    """A row of books from one end of the board."""
    at, end = -reach + 0.005, piece.length(-0.3, 1.0) * reach
    while at < end:
        wide, tall = piece.length(0.025, 0.06), piece.length(0.55, 0.88) * (high - low)
        if at + wide > reach:
            break
        colour = _plain((*PAINTS, *FABRICS), piece.rng)
        piece.add(colour, box((at, -0.32 * depth, low), (at + wide - 0.003, 0.42 * depth, low + tall), bevel=0.004))
        at += wide


_BUILDERS: dict[str, Callable[[Piece], None]] = {
    "chair": _chair,
    "armchair": _armchair,
    "stool": _stool,
    "round_table": _round_table,
    "square_table": _square_table,
    "sofa": _sofa,
    "shelf": _shelf,
}
KINDS: tuple[str, ...] = tuple(_BUILDERS)
