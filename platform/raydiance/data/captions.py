"""Captions of furniture: what a person would say of a piece at a glance, out of how it was built."""

import colorsys
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from raydiance.data.meshes import Mesh

__all__ = ["caption", "colour_word", "count_word"]

TALL, LOW, WIDE = 1.5, 0.7, 1.6  # height over the longer side of the floor plan; longer over shorter side
COUNTS = ("no", "one", "two", "three", "four", "five", "six")


def caption(kind: str, parts: Sequence[Mesh], traits: Sequence[str]) -> str:
    """Such as "a low brown round table with three tapered legs": size, colour, kind, then traits, each once.

    The colour is that of the largest share of the surface; sizes are proportions, which is all that is left of
    them in the unit ball.
    """
    words = [*_sizes(parts), _main_colour(parts), kind.replace("_", " ")]
    with_traits = f" with {' and '.join(dict.fromkeys(traits))}" if traits else ""
    return f"a {' '.join(words)}{with_traits}"


def count_word(count: int) -> str:
    """A small number as a word."""
    return COUNTS[count] if count < len(COUNTS) else str(count)


def colour_word(rgb: Sequence[float]) -> str:
    """One of twelve names for an sRGB colour in [0, 1]; where names part is our own choice."""
    hue, saturation, value = colorsys.rgb_to_hsv(*rgb)
    if value < 0.25:
        return "black"
    if saturation < 0.15:
        return "white" if value > 0.8 else "grey"
    degrees = 360 * hue
    if degrees < 15 or degrees >= 330:
        return "pink" if value > 0.7 and saturation < 0.4 else "red"
    if degrees < 50:
        if value > 0.7 and saturation < 0.35:
            return "beige"
        return "orange" if value > 0.75 and saturation > 0.55 else "brown"
    limits = {70: "yellow", 165: "green", 255: "blue", 330: "purple"}
    return next(name for limit, name in limits.items() if degrees < limit)


def _sizes(parts: Sequence[Mesh]) -> list[str]:
    vertices = np.concatenate([part.vertices for part in parts])
    across, along, height = (float(side) for side in np.ptp(vertices, axis=0))
    ratio = height / max(across, along)
    words = ["tall"] if ratio > TALL else ["low"] if ratio < LOW else []
    return [*words, *(["wide"] if max(across, along) > WIDE * min(across, along) else [])]


def _main_colour(parts: Sequence[Mesh]) -> str:
    areas: dict[str, float] = defaultdict(float)
    for part in parts:
        areas[colour_word(_mean_colour(part).tolist())] += _area(part)
    return max(areas, key=lambda word: areas[word])


def _mean_colour(part: Mesh) -> NDArray[np.float64]:
    flat: NDArray[np.float64] = part.colours[:, :3].mean(axis=0) / 255
    texels = [picture[..., :3].mean(axis=(0, 1)) / 255 for picture in part.textures]
    return flat * np.mean(texels, axis=0) if texels else flat


def _area(part: Mesh) -> float:
    corners = part.vertices[part.faces].astype(np.float64)
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    return float(0.5 * np.linalg.norm(normals, axis=1).sum())
