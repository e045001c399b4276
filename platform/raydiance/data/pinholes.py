"""Cameras and their pictures as plain arrays, which is how they travel between processes."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from raydiance.data.meshes import Bytes

__all__ = ["Pinholes", "ViewArrays"]

Half = NDArray[np.float16]


@dataclass(frozen=True)
class Pinholes:
    """V cameras as plain arrays: pose [V, 3, 4] camera to world, focal and center [V, 2] pixels."""

    pose: NDArray[np.float64]
    focal: NDArray[np.float64]
    center: NDArray[np.float64]
    width: int
    height: int


@dataclass(frozen=True)
class ViewArrays:
    """V views: rgba uint8 [V, H, W, 4] with straight alpha; depth float16 [V, H, W], distance along the ray.

    Depth is the mean over the samples of the pixel that hit a surface, 0 where none did.
    """

    rgba: Bytes
    depth: Half
