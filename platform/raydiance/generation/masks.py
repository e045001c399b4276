"""Which part of a field is made anew: a box, a half-space, or what was painted with a brush."""

import math
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor

from raydiance.errors import DataError
from raydiance.spec import spec

__all__ = ["BoxMask", "BrushMask", "HalfSpaceMask", "Mask", "random_box", "removed_by"]

Vector: TypeAlias = tuple[float, float, float]


@spec
class BoxMask:
    """The box from lower to upper, in the world."""

    kind: Literal["box"] = "box"
    lower: Vector = (-1.0, -1.0, 0.0)
    upper: Vector = (1.0, 1.0, 1.0)


@spec
class HalfSpaceMask:
    """All points x with normal . x > offset."""

    kind: Literal["half_space"] = "half_space"
    normal: Vector = (0.0, 0.0, 1.0)
    offset: float = 0.0


@spec
class BrushMask:
    """A volume [X, Y, Z] as .npy, of the field's own size; what is not 0 is made anew."""

    kind: Literal["brush"] = "brush"
    file: str = ""


Mask: TypeAlias = BoxMask | HalfSpaceMask | BrushMask


def removed_by(mask: Mask, resolution: int) -> Tensor:
    """Which samples of a field in the unit box are made anew: bool [X, Y, Z]. DataError if it is none or
    all.
    """
    if isinstance(mask, BrushMask):
        removed = _painted(Path(mask.file), resolution)
    else:
        line = torch.linspace(-1, 1, resolution, dtype=torch.float64)
        places = torch.stack(torch.meshgrid(line, line, line, indexing="ij"), dim=-1)
        if isinstance(mask, BoxMask):
            low, high = torch.tensor(mask.lower), torch.tensor(mask.upper)
            removed = ((places >= low) & (places <= high)).all(-1)
        else:
            removed = places @ torch.tensor(mask.normal, dtype=torch.float64) > mask.offset
    share = float(removed.float().mean())
    if share in (0.0, 1.0):
        raise DataError(
            f"mask {mask}: it removes {share:.0%} of the field, so there is nothing to complete from or to; "
            "the field fills the box from -1 to 1"
        )
    return removed


def random_box(share: float, resolution: int, generator: torch.Generator) -> Tensor:
    """A box of about this share of the samples, of random proportions at a random place: bool [X, Y, Z]."""
    first, second, *places = torch.rand(5, generator=generator).tolist()
    a = share ** (2 / 3 * first)
    b = (share / a) ** (0.25 + 0.5 * second)
    edges = [max(1, round(edge * resolution)) for edge in (a, b, share / (a * b))]
    removed = torch.zeros((resolution,) * 3, dtype=torch.bool)
    where = []
    for axis, place in zip(torch.randperm(3, generator=generator).tolist(), places, strict=True):
        begin = math.floor(place * (resolution - edges[axis] + 1))
        where.append(slice(begin, begin + edges[axis]))
    removed[tuple(where)] = True
    return removed


def _painted(path: Path, resolution: int) -> Tensor:
    try:
        volume = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise DataError(
            f"mask {path}: is no .npy file of numbers ({error}); save one with numpy.save"
        ) from error
    if volume.shape != (resolution,) * 3:
        raise DataError(
            f"mask {path}: a brush for this field has shape {(resolution,) * 3}, got {volume.shape}; paint it "
            "on the field's own grid"
        )
    if volume.dtype.kind not in "biuf" or not np.isfinite(volume).all():
        raise DataError(f"mask {path}: a brush holds finite numbers, 0 for what stays, got {volume.dtype}")
    return torch.from_numpy(volume != 0)
