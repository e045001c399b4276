"""The radiance field: a voxel grid of density and colour in a box."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from raydiance.errors import DataError

__all__ = ["VoxelField"]

Point = tuple[float, float, float]


@dataclass(frozen=True)
class VoxelField:
    """B radiance fields, trilinear between the samples of a grid [B, X, Y, Z, 4].

    The last axis holds density (>= 0, per unit of length; what is below 0 counts as 0), then sRGB-encoded RGB
    in [0, 1]. The outermost samples lie on the faces of the box lower..upper; outside of it there is nothing.
    """

    grid: Tensor
    lower: Point = (-1.0, -1.0, -1.0)
    upper: Point = (1.0, 1.0, 1.0)

    def __post_init__(self) -> None:
        shape = tuple(self.grid.shape)
        if len(shape) != 5 or shape[-1] != 4 or min(shape[1:4]) < 2:
            raise ValueError(f"a field's grid needs shape [B, X, Y, Z, 4] with X, Y, Z >= 2, got {shape}")
        if not all(a < b for a, b in zip(self.lower, self.upper, strict=True)):
            raise ValueError(
                f"a field's box needs lower < upper on each axis, got {self.lower}, {self.upper}"
            )

    def __len__(self) -> int:
        return self.grid.shape[0]

    def __getitem__(self, objects: int | slice | Tensor) -> "VoxelField":
        """The fields of these objects; an int gives one field that still has its batch axis."""
        index = slice(objects, objects + 1 or None) if isinstance(objects, int) else objects
        return VoxelField(self.grid[index], self.lower, self.upper)

    @property
    def resolution(self) -> tuple[int, int, int]:
        """Samples along x, y and z."""
        _, x, y, z, _ = self.grid.shape
        return x, y, z

    def detach(self) -> "VoxelField":
        """The same field, cut off from autograd."""
        return VoxelField(self.grid.detach(), self.lower, self.upper)

    def to(self, *args: Any, **kwargs: Any) -> "VoxelField":
        """The field on another device or in another dtype, as Tensor.to."""
        return VoxelField(self.grid.to(*args, **kwargs), self.lower, self.upper)

    def check_finite(self) -> None:
        """Raises DataError if the grid holds a NaN or an infinity, naming the first place."""
        smallest, largest = torch.aminmax(self.grid.detach())
        if bool(torch.isfinite(smallest) & torch.isfinite(largest)):
            return
        place = torch.nonzero(~torch.isfinite(self.grid.detach()))[0]
        value = float(self.grid[tuple(place)])
        raise DataError(
            f"a field's grid holds {value} at index {place.tolist()} (object, x, y, z, channel): "
            "densities and colours must be finite; mend or drop this field"
        )
