"""Colour that depends on the direction of view: real spherical harmonics up to degree 2.

A field of degree L holds RGB a_0 and, for each further harmonic k, RGB a_k; its colour seen along direction
d is c(d) = a_0 + sum_{k >= 1} Y_k(d) a_k. So a_0 is the mean colour, and the first four channels of a field
of any degree are those of a plain one.
"""

import torch
from torch import Tensor

__all__ = ["NUM_CHANNELS", "basis"]

NUM_CHANNELS = (4, 13, 28)  # density and 3 (L + 1)^2 of colour, for degree L


def basis(directions: Tensor, degree: int) -> Tensor:
    """[..., (degree + 1)^2]: 1, then Y_k of unit directions [..., 3], k = 1 .. by degree and order."""
    x, y, z = directions.unbind(-1)
    values = [torch.ones_like(x)]
    if degree >= 1:
        values += [0.4886025119029199 * v for v in (y, z, x)]
    if degree >= 2:
        values += [1.0925484305920792 * v for v in (x * y, y * z)]
        values += [0.31539156525252005 * (3 * z * z - 1)]
        values += [1.0925484305920792 * x * z, 0.5462742152960396 * (x * x - y * y)]
    return torch.stack(values, dim=-1)
