"""Small seamless pictures that furniture is covered with: wood grain and woven cloth."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["CLOTHS", "cloth", "wood"]

Array = NDArray[np.float64]
Bytes = NDArray[np.uint8]
Rgb = Sequence[float] | Array

SIZE = 32  # texels along one side
CLOTHS = ("plain", "stripes", "checks", "dots", "chevron")


def _bytes(image: Array) -> Bytes:
    rgba = np.full((*image.shape[:2], 4), 255, np.uint8)
    rgba[..., :3] = np.round(np.clip(image, 0, 1) * 255)
    return rgba


def wood(base: Rgb, rng: np.random.Generator) -> Bytes:
    """Grain along u, uint8 [32, 32, 4]; base: sRGB colour in 0..1."""
    v, u = np.mgrid[0:SIZE, 0:SIZE] / SIZE
    bend = rng.uniform(0.02, 0.06) * np.sin(2 * np.pi * (u + rng.uniform()))
    rings = np.sin(2 * np.pi * (rng.integers(2, 5) * (v + bend) + rng.uniform()))
    fine = np.sin(2 * np.pi * (rng.integers(6, 9) * v + bend + rng.uniform()))
    return _bytes(np.asarray(base) * (1 + rng.uniform(0.05, 0.13) * rings + 0.03 * fine)[..., None])


def cloth(kind: str, first: Rgb, second: Rgb, rng: np.random.Generator) -> Bytes:
    """A cloth of one of CLOTHS in one or two sRGB colours in 0..1, uint8 [32, 32, 4]."""
    v, u = np.mgrid[0:SIZE, 0:SIZE] / SIZE
    weave = 1 + 0.02 * rng.standard_normal((SIZE, SIZE))
    mix = {
        "plain": np.zeros_like(u),
        "stripes": ((u * 2) % 1 < 0.5) * 1.0,
        "checks": 0.5 * ((u * 2) % 1 < 0.5) + 0.5 * ((v * 2) % 1 < 0.5),
        "dots": (((u * 2) % 1 - 0.5) ** 2 + ((v * 2) % 1 - 0.5) ** 2 < 0.07) * 1.0,
        "chevron": ((v * 2 + np.abs((u * 2) % 1 - 0.5)) % 1 < 0.5) * 1.0,
    }[kind]
    colour = np.asarray(first) * (1 - mix[..., None]) + np.asarray(second) * mix[..., None]
    return _bytes(colour * weave[..., None])
