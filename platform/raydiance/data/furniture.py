"""A seeded generator of furniture: chairs, armchairs, stools, tables, sofas and shelves.

Lengths in metres, +Z up, standing on z = 0, the front towards -Y. A piece is a union of closed parts, each
wound outwards; the parts may run into one another, as joined wood does.
"""

from collections.abc import Callable
from itertools import pairwise

import numpy as np

from raydiance.data.captions import caption, count_word
from raydiance.data.joinery import (
    FABRICS,
    METALS,
    PAINTS,
    Material,
    Piece,
    add_back,
    add_legs,
    add_pedestal,
    add_seat,
    add_sled,
    add_stretchers,
    corner_spots,
    fabric,
    paint,
    wood,
)
from raydiance.data.meshes import Mesh, merge
from raydiance.data.solids import box, cushion, panel, pole, rod
from raydiance.errors import DataError

__all__ = ["KINDS", "generate", "generate_captioned", "generate_parts"]


def generate(kind: str | None, seed: int) -> Mesh:
    """One piece of furniture of a kind (None: a kind drawn by the seed), the same for the same arguments."""
    return merge(generate_parts(kind, seed))


def generate_captioned(kind: str, seed: int) -> tuple[Mesh, str]:
    """`generate`, and what a person would call the piece."""
    piece = _built(kind, seed)
    return merge(piece.parts), caption(kind, piece.parts, piece.traits)


def generate_parts(kind: str | None, seed: int) -> list[Mesh]:
    """The closed parts of `generate`, one mesh each. Raises DataError for an unknown kind."""
    if kind is None:
        kind = KINDS[int(np.random.default_rng((seed, len(KINDS))).integers(len(KINDS)))]
    return _built(kind, seed).parts


def _built(kind: str, seed: int) -> Piece:
    if kind not in _BUILDERS:
        raise DataError(f"furniture has no kind {kind!r}: choose one of {', '.join(KINDS)}")
    piece = Piece(np.random.default_rng((seed, KINDS.index(kind))))
    _BUILDERS[kind](piece)
    return piece


def _chair_body(piece: Piece, width: float) -> tuple[Material, float, float]:
    """Legs, seat and back; the frame's material, the depth and the height of the seat are returned."""
    frame, cloth = wood(piece.rng), fabric(piece.rng)
    depth, height = piece.length(0.40, 0.48), piece.length(0.42, 0.48)
    base = piece.pick("legs", "legs", "legs", "legs", "sled", "pedestal")
    metal = paint(METALS, piece.rng)
    if base == "sled":
        add_sled(piece, metal, width, depth, height - 0.02)
    elif base == "pedestal":
        add_pedestal(piece, metal, 0.27, height - 0.03)
    else:
        corners = corner_spots(width, depth, 0.035)
        shape = add_legs(piece, frame, corners, height - 0.02)
        if shape in ("square", "turned") and piece.chance(0.5):
            add_stretchers(piece, frame, corners, height)
    add_seat(piece, frame, cloth, width, depth, height)
    add_back(piece, frame, cloth, width, depth, height)
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
    piece.traits.append("arms")
    for side in (-1, 1):
        rest = panel(0.055, depth * 0.98, 0.026, radius=0.025, bevel=0.006)
        piece.add(frame, rest.moved(side * x, -0.01, seat + rise))
        piece.add(
            frame,
            rod(
                (side * x, -depth / 2 + 0.05, seat - 0.03),
                (side * x, -depth / 2 + 0.06, seat + rise + 0.01),
                0.016,
            ),
        )
        piece.add(
            frame, rod((side * x, depth / 4, seat - 0.03), (side * x, depth / 4, seat + rise + 0.01), 0.013)
        )


def _stool(piece: Piece) -> None:
    height, radius = (
        float(piece.rng.choice((0.45, 0.62, 0.75))) * piece.length(0.95, 1.05),
        piece.length(0.15, 0.21),
    )
    frame, cloth = wood(piece.rng), fabric(piece.rng)
    count = 3 if piece.chance(0.35) else 4
    if piece.chance(0.25):
        add_pedestal(piece, paint(METALS, piece.rng), 0.9 * radius + 0.03, height - 0.03)
    else:
        angles = 2 * np.pi * (np.arange(count) + 0.5) / count
        corners = [(0.68 * radius * float(np.cos(a)), 0.68 * radius * float(np.sin(a))) for a in angles]
        add_legs(piece, frame, corners, height - 0.02)
        if height > 0.55 or piece.chance(0.3):
            ring = np.linspace(0, 2 * np.pi, count, endpoint=False) + np.pi / count
            feet = [
                np.array((0.75 * radius * np.cos(a), 0.75 * radius * np.sin(a), 0.3 * height)) for a in ring
            ]
            piece.add(frame, *(rod(feet[i], feet[(i + 1) % count], 0.009) for i in range(count)))
    if piece.chance(0.5):
        profile = [(-0.035, 0.93 * radius), (-0.02, radius), (-0.006, radius), (0.0, 0.94 * radius)]
        piece.add(frame, pole([(height + at, wide) for at, wide in profile], sides=28))
    elif piece.chance(0.6):
        angles = np.linspace(-np.pi / 2, np.pi / 2, 9)
        thick = piece.length(0.03, 0.055)
        dome = [
            (height - thick + thick * float(np.sin(a)), radius * float(max(np.cos(a), 0.03)) ** 0.35)
            for a in angles
        ]
        piece.add(cloth, pole(dome, sides=28))
    else:
        low, high = (-radius, -radius, height - 0.08), (radius, radius, height)
        piece.add(cloth, cushion(low, high, power=piece.length(4, 8)))


def _round_table(piece: Piece) -> None:
    height, radius = piece.pick("low", "high"), piece.length(0.32, 0.55)
    top = piece.length(0.38, 0.5) if height == "low" else piece.length(0.68, 0.76)
    board, thick = wood(piece.rng), piece.length(0.02, 0.045)
    edge = min(0.01, 0.4 * thick)
    profile = [
        (top - thick, radius - edge),
        (top - thick + edge, radius),
        (top - edge, radius),
        (top, radius - edge),
    ]
    piece.add(board, pole(profile, sides=40))
    under = board if piece.chance(0.6) else paint(METALS, piece.rng)
    if piece.chance(0.35):
        add_pedestal(piece, under, 0.62 * radius, top - thick + 0.005)
        return
    count = 3 if piece.chance(0.35) else 4
    angles = 2 * np.pi * (np.arange(count) + 0.5) / count
    reach = piece.length(0.62, 0.8) * radius
    corners = [(reach * float(np.cos(a)), reach * float(np.sin(a))) for a in angles]
    add_legs(piece, under, corners, top - 0.5 * thick)
    if height == "low" and piece.chance(0.4):
        shelf = [(0.3 * top, 0.95 * reach), (0.3 * top + 0.018, 0.95 * reach)]
        piece.add(board, pole(shelf, sides=32))


def _square_table(piece: Piece) -> None:
    low = piece.chance(0.4)
    width = piece.length(0.6, 1.15)
    depth = width * piece.length(0.55, 1.0)
    top, thick = (piece.length(0.36, 0.46) if low else piece.length(0.68, 0.76)), piece.length(0.022, 0.05)
    board = wood(piece.rng)
    under = board if piece.chance(0.6) else wood(piece.rng)
    slab = panel(width, depth, thick, radius=piece.length(0.01, 0.1), bevel=0.007).moved(0, 0, top - thick)
    piece.add(board, slab)
    inset = piece.length(0.035, 0.09)
    if piece.chance(0.2):
        add_sled(piece, paint(METALS, piece.rng), width * 0.92, depth * 0.96, top - 0.5 * thick)
        return
    corners = corner_spots(width, depth, inset)
    shape = add_legs(piece, under, corners, top - 0.5 * thick)
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
    piece.traits.append("soft arms")
    cloth = fabric(piece.rng, calm=piece.chance(0.6))
    accent = fabric(piece.rng)
    seat_width = piece.length(0.52, 0.64)
    arm, leg = piece.length(0.10, 0.19), piece.length(0.07, 0.17)
    width, depth = seats * seat_width + 2 * arm, piece.length(0.78, 0.92)
    seat, back, rest = leg + piece.length(0.27, 0.32), piece.length(0.72, 0.92), piece.length(0.16, 0.26)
    x, y, soft = width / 2, depth / 2, piece.length(6, 14)
    piece.add(cloth, box((-x + 0.02, -y + 0.02, leg), (x - 0.02, y - 0.02, seat - 0.11), bevel=0.02))
    piece.add(
        cloth,
        cushion((-x + 0.03, y - 0.24, leg + 0.02), (x - 0.03, y, back), power=soft).turned(
            0, -4, (0, y, leg)
        ),
    )
    rolled = piece.chance(0.35)
    for side in (-1, 1):
        inner, outer = sorted((side * x, side * (x - arm)))
        piece.add(cloth, cushion((inner, -y, leg), (outer, y - 0.02, seat + rest), power=soft + 2))
        if rolled:
            middle = side * (x - 0.45 * arm)
            roll = pole(
                [(0, 0.62 * arm), (0.02, 0.68 * arm), (depth - 0.06, 0.68 * arm), (depth - 0.04, 0.62 * arm)]
            )
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
    add_legs(piece, wood(piece.rng), corner_spots(width, depth, 0.09), leg + 0.03)


def _shelf(piece: Piece) -> None:
    frame = wood(piece.rng)
    width, depth, height = piece.length(0.45, 0.95), piece.length(0.24, 0.34), piece.length(0.7, 1.7)
    thick, x = piece.length(0.018, 0.032), width / 2
    levels = max(2, int(height / piece.length(0.28, 0.4)))
    foot = piece.length(0.03, 0.12)
    heights = np.linspace(foot, height - thick, levels + 1)
    closed = piece.chance(0.6)
    if closed:
        piece.add(
            frame,
            *(
                box((s * x - thick / 2, -depth / 2, 0), (s * x + thick / 2, depth / 2, height))
                for s in (-1, 1)
            ),
        )
        if piece.chance(0.7):
            back = paint(PAINTS, piece.rng) if piece.chance(0.4) else frame
            piece.add(
                back, box((-x, depth / 2 - 0.014, foot), (x, depth / 2 - 0.002, height - 0.004), bevel=0.002)
            )
    else:
        post = paint(METALS, piece.rng) if piece.chance(0.5) else frame
        spots = corner_spots(width, depth, 0.0)
        piece.add(post, *(rod((px, py, 0), (px, py, height + 0.02), 0.013, sides=4) for px, py in spots))
    for z in heights:
        piece.add(frame, box((-x, -depth / 2 + 0.002, z), (x, depth / 2 - 0.004, z + thick), bevel=0.004))
    door = paint(PAINTS, piece.rng)
    piece.traits.append(f"{count_word(levels)} shelves")
    for low, high in pairwise(heights):
        fill = piece.pick("books", "books", "empty", "box", "doors")
        if fill == "books":
            _books(piece, x - thick, depth, low + thick, high)
        elif fill == "box":
            size, at = piece.length(0.5, 0.8) * (high - low - thick), piece.length(-0.5, 0.5) * (x - 0.2)
            piece.add(
                fabric(piece.rng),
                box((at - 0.16, -0.4 * depth, low + thick), (at + 0.16, 0.35 * depth, low + thick + size)),
            )
        elif fill == "doors" and closed:
            for left, right in ((-x + thick / 2, -0.003), (0.003, x - thick / 2)):
                piece.add(
                    door,
                    box(
                        (left, -depth / 2 - 0.004, low + thick),
                        (right, -depth / 2 + 0.014, high),
                        bevel=0.004,
                    ),
                )
                knob = 0.035 if left >= 0 else -0.035
                piece.add(
                    frame,
                    cushion(
                        (knob - 0.012, -depth / 2 - 0.03, (low + high) / 2),
                        (knob + 0.012, -depth / 2, (low + high) / 2 + 0.024),
                        power=2,
                        cells=3,
                    ),
                )


def _books(piece: Piece, reach: float, depth: float, low: float, high: float) -> None:
    """A row of books from one end of the board."""
    at, end = -reach + 0.005, piece.length(-0.3, 1.0) * reach
    while at < end:
        wide, tall = piece.length(0.025, 0.06), piece.length(0.55, 0.88) * (high - low)
        if at + wide > reach:
            break
        colour = paint((*PAINTS, *FABRICS), piece.rng)
        piece.add(
            colour, box((at, -0.32 * depth, low), (at + wide - 0.003, 0.42 * depth, low + tall), bevel=0.004)
        )
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
