"""The radiance field: a voxel grid of density and colour in a box."""

from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from raydiance.errors import DataError
from raydiance.fields.cameras import Rays
from raydiance.fields.harmonics import NUM_CHANNELS

__all__ = ["Point", "VoxelField", "normal_field", "soft_unit"]

Point = tuple[float, float, float]


@dataclass(frozen=True)
class VoxelField:
    """B radiance fields, trilinear between the samples of a grid [B, X, Y, Z, 4].

    The last axis holds density (>= 0, per unit of length; what is below 0 counts as 0), then sRGB-encoded RGB
    in [0, 1], then, for colours of degree 1 or 2, the further coefficients of `harmonics` (13 or 28 channels
    in all). The outermost samples lie on the faces of the box lower..upper; outside of it there is nothing.
    to_world [3, 4]: rotation and translation of all fields into the world (None: they stand in it already).
    """

    grid: Tensor
    lower: Point = (-1.0, -1.0, -1.0)
    upper: Point = (1.0, 1.0, 1.0)
    to_world: Tensor | None = None

    def __post_init__(self) -> None:
        shape = tuple(self.grid.shape)
        if len(shape) != 5 or shape[-1] not in NUM_CHANNELS or min(shape[1:4]) < 2:
            raise ValueError(
                "a field's grid needs shape [B, X, Y, Z, 4] with X, Y, Z >= 2 (or, for colours of degree 1 "
                f"or 2, 13 or 28 channels), got {shape}"
            )
        if not all(a < b for a, b in zip(self.lower, self.upper, strict=True)):
            raise ValueError(
                f"a field's box needs lower < upper on each axis, got {self.lower}, {self.upper}"
            )
        if self.to_world is not None:
            _check_rigid(self.to_world)

    def __len__(self) -> int:
        return self.grid.shape[0]

    def __getitem__(self, objects: int | slice | Tensor) -> "VoxelField":
        """The fields of these objects; an int gives one field that still has its batch axis."""
        index = slice(objects, objects + 1 or None) if isinstance(objects, int) else objects
        return replace(self, grid=self.grid[index])

    @property
    def resolution(self) -> tuple[int, int, int]:
        """Samples along x, y and z."""
        _, x, y, z, _ = self.grid.shape
        return x, y, z

    @property
    def degree(self) -> int:
        """The degree of the spherical harmonics of its colours: 0, 1 or 2."""
        return NUM_CHANNELS.index(self.grid.shape[-1])

    @property
    def cell_size(self) -> Point:
        """Distances between samples along x, y and z."""
        x, y, z = ((b - a) / (n - 1) for a, b, n in zip(self.lower, self.upper, self.resolution, strict=True))
        return x, y, z

    def detach(self) -> "VoxelField":
        """The same field, cut off from autograd."""
        return replace(self, grid=self.grid.detach())

    def to(self, *args: Any, **kwargs: Any) -> "VoxelField":
        """The field on another device or in another dtype, as Tensor.to."""
        return replace(self, grid=self.grid.to(*args, **kwargs))

    def bring_in(self, rays: Rays) -> Rays:
        """Rays of the world in the fields' own axes."""
        if self.to_world is None:
            return rays
        pose = self.to_world.to(rays.origins)
        return Rays((rays.origins - pose[:, 3]) @ pose[:, :3], rays.directions @ pose[:, :3])

    def bring_out(self, vectors: Tensor, *, points: bool) -> Tensor:
        """Points or directions [..., 3] of the fields' own axes in the world."""
        if self.to_world is None:
            return vectors
        pose = self.to_world.to(vectors)
        turned = vectors @ pose[:, :3].mT
        return turned + pose[:, 3] if points else turned

    def resampled(
        self,
        size: tuple[int, int, int],
        lower: Point = (-1.0, -1.0, -1.0),
        upper: Point = (1.0, 1.0, 1.0),
        *,
        outside: Literal["border", "zeros"] = "zeros",
    ) -> "VoxelField":
        """The fields on another grid in another box; outside of theirs is nothing, or their border goes on."""
        axes = [
            torch.linspace(a, b, n, device=self.grid.device)
            for a, b, n in zip(lower, upper, size, strict=True)
        ]
        low, high = (self.grid.new_tensor(p) for p in (self.lower, self.upper))
        points = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)
        where = (2 * (points - low) / (high - low) - 1).flip(-1).expand(len(self), *size, 3)
        volume = self.grid.permute(0, 4, 1, 2, 3)
        moved = F.grid_sample(volume, where, padding_mode=outside, align_corners=True)
        return replace(self, grid=moved.permute(0, 2, 3, 4, 1).contiguous(), lower=lower, upper=upper)

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


def normal_field(field: VoxelField) -> VoxelField:
    """Fields of the same densities whose colour is the outward normal of their level sets.

    The normal is -grad(density) by central differences on the grid (one-sided at the box), of unit length,
    but falls to 0 where the density is level. Differentiable with respect to field.grid.
    """
    density = field.grid[..., 0].clamp(min=0)
    parts = []
    for axis, step in enumerate(field.cell_size):
        last = density.shape[axis + 1] - 1
        ahead = density.narrow(axis + 1, 1, last)
        behind = density.narrow(axis + 1, 0, last)
        slope = (ahead - behind) / step
        pad = [0, 0] * (2 - axis) + [1, 1]
        count = F.pad(torch.ones_like(slope), pad)
        count = count.narrow(axis + 1, 0, last + 1) + count.narrow(axis + 1, 1, last + 1)
        slope = F.pad(slope, pad)
        parts.append((slope.narrow(axis + 1, 0, last + 1) + slope.narrow(axis + 1, 1, last + 1)) / count)
    normal = -soft_unit(torch.stack(parts, dim=-1), 1e-2)
    return replace(field, grid=torch.cat((field.grid[..., :1], normal), dim=-1))


def soft_unit(vectors: Tensor, small: float) -> Tensor:
    """v / sqrt(|v|^2 + small^2): of unit length where |v| is far above `small`, of bounded slope at 0."""
    return vectors * torch.rsqrt(vectors.square().sum(-1, keepdim=True) + small**2)


def _check_rigid(pose: Tensor) -> None:
    shape = tuple(pose.shape)
    if shape != (3, 4):
        raise ValueError(f"a field's to_world needs shape [3, 4], got {shape}")
    rotation = pose[:, :3].detach().double()
    error = float(
        (rotation @ rotation.mT - torch.eye(3, dtype=torch.float64, device=pose.device)).abs().max()
    )
    if not error < 1e-4 or not float(torch.linalg.det(rotation)) > 0:
        raise ValueError(
            "a field's to_world needs a rotation in its first three columns (scale belongs in the box); "
            f"R R^T is {error:g} away from 1"
        )
