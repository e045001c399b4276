"""Pinhole cameras and the rays they cast.

World: right-handed, +Z up, objects inside the unit ball. Camera: OpenGL axes (x right, y up, looking
along -z). Pixel (column, row) has its centre at (column + 0.5, row + 0.5); row 0 is the top of the image.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

__all__ = ["Cameras", "Rays", "look_at", "orbit_cameras", "spiral_cameras"]

ViewIndex = int | slice | Sequence[int] | Tensor


@dataclass(frozen=True)
class Rays:
    """Rays r(t) = origin + t * direction: origins and unit directions, both [..., 3], in world units."""

    origins: Tensor
    directions: Tensor

    def __post_init__(self) -> None:
        if self.origins.shape != self.directions.shape or self.origins.shape[-1:] != (3,):
            raise ValueError(
                "rays need origins and directions of one shape [..., 3], "
                f"got {tuple(self.origins.shape)} and {tuple(self.directions.shape)}"
            )

    @property
    def shape(self) -> torch.Size:
        """The shape without the last axis."""
        return self.origins.shape[:-1]

    def __getitem__(self, index: Any) -> "Rays":
        return Rays(self.origins[index], self.directions[index])

    def reshape(self, *shape: int) -> "Rays":
        """The same rays in another shape (given without the last axis)."""
        return Rays(self.origins.reshape(*shape, 3), self.directions.reshape(*shape, 3))

    def to(self, *args: Any, **kwargs: Any) -> "Rays":
        """The rays on another device or in another dtype, as Tensor.to."""
        return Rays(self.origins.to(*args, **kwargs), self.directions.to(*args, **kwargs))


@dataclass(frozen=True)
class Cameras:
    """V pinhole cameras of one image size.

    camera_to_world [V, 3, 4]: rotation and position. focal, center [V, 2]: pixels, (x, y).
    width, height: pixels.
    """

    camera_to_world: Tensor
    focal: Tensor
    center: Tensor
    width: int
    height: int

    def __post_init__(self) -> None:
        num_views = self.camera_to_world.shape[0]
        for name, want in (
            ("camera_to_world", (num_views, 3, 4)),
            ("focal", (num_views, 2)),
            ("center", (num_views, 2)),
        ):
            got = tuple(getattr(self, name).shape)
            if got != want:
                raise ValueError(f"cameras.{name} needs shape {want}, got {got}")
        if self.width < 1 or self.height < 1:
            raise ValueError(f"cameras need width and height >= 1, got {self.width} x {self.height}")

    def __len__(self) -> int:
        return self.camera_to_world.shape[0]

    def __getitem__(self, views: ViewIndex) -> "Cameras":
        """The cameras of these views; an int gives one camera that still has its view axis."""
        if isinstance(views, int):
            views = [views]
        elif not isinstance(views, slice):
            views = torch.as_tensor(views, device=self.focal.device).reshape(-1)
        return Cameras(
            self.camera_to_world[views], self.focal[views], self.center[views], self.width, self.height
        )

    def pixel_rays(self, views: Tensor, columns: Tensor, rows: Tensor) -> Rays:
        """Rays through the centres of pixels (column, row) of the views.

        views: integer; columns, rows: integer or real; shapes that broadcast to [...]. Returns rays [...].
        """
        pose, focal, center = self.camera_to_world[views], self.focal[views], self.center[views]
        x = (columns + 0.5 - center[..., 0]) / focal[..., 0]
        y = (center[..., 1] - rows - 0.5) / focal[..., 1]
        zero = torch.zeros_like(x + y)
        local = torch.stack((x + zero, y + zero, zero - 1), dim=-1)
        directions = (pose[..., :3] * local[..., None, :]).sum(-1)
        directions = directions / directions.norm(dim=-1, keepdim=True)
        return Rays(pose[..., 3].expand_as(directions), directions)

    def rays(self, views: ViewIndex | None = None) -> Rays:
        """All rays of the views: [H, W] for an int, [V, H, W] for a slice, a sequence or None (all views)."""
        everything = torch.arange(len(self), device=self.focal.device)
        index = (
            everything
            if views is None
            else everything[views if isinstance(views, int | slice) else torch.as_tensor(views)]
        )
        columns = torch.arange(self.width, device=self.focal.device)
        rows = torch.arange(self.height, device=self.focal.device)
        return self.pixel_rays(index[..., None, None], columns[None, :], rows[:, None])

    def to(self, *args: Any, **kwargs: Any) -> "Cameras":
        """The cameras on another device or in another dtype, as Tensor.to."""
        pose, focal, center = (
            part.to(*args, **kwargs) for part in (self.camera_to_world, self.focal, self.center)
        )
        return Cameras(pose, focal, center, self.width, self.height)

    def to_json(self) -> dict[str, Any]:
        """The cameras as plain lists and numbers; `from_json` gives the same tensors back, bit for bit."""
        return {
            "camera_to_world": self.camera_to_world.tolist(),
            "focal": self.focal.tolist(),
            "center": self.center.tolist(),
            "width": self.width,
            "height": self.height,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any], *, dtype: torch.dtype = torch.float32) -> "Cameras":
        """Cameras out of what `to_json` wrote."""
        return cls(
            torch.tensor(value["camera_to_world"], dtype=dtype).reshape(-1, 3, 4),
            torch.tensor(value["focal"], dtype=dtype).reshape(-1, 2),
            torch.tensor(value["center"], dtype=dtype).reshape(-1, 2),
            int(value["width"]),
            int(value["height"]),
        )


def look_at(positions: Tensor, target: Sequence[float] = (0.0, 0.0, 0.0)) -> Tensor:
    """camera_to_world [V, 3, 4] of cameras at positions [V, 3] that look at the target, +Z up in the view."""
    backward = positions - torch.tensor(target, dtype=positions.dtype, device=positions.device)
    backward = backward / backward.norm(dim=-1, keepdim=True)
    up = torch.tensor((0.0, 0.0, 1.0), dtype=positions.dtype, device=positions.device).expand_as(backward)
    right = torch.linalg.cross(up, backward)
    length = right.norm(dim=-1, keepdim=True)
    if not bool((length > 1e-6).all()):
        raise ValueError("a camera looks straight along Z, where 'up' has no meaning: move it off the axis")
    right = right / length
    return torch.stack((right, torch.linalg.cross(backward, right), backward, positions), dim=-1)


def _cameras_on_sphere(
    polar: Tensor, azimuth: Tensor, size: int, radius: float, fov_degrees: float
) -> Cameras:
    """Square cameras on the sphere looking at the origin; angles in radians, float64 [V]."""
    if radius <= 0 or not 0 < fov_degrees < 180:
        raise ValueError(f"need radius > 0 and 0 < fov_degrees < 180, got {radius} and {fov_degrees}")
    around = torch.stack((azimuth.cos(), azimuth.sin()), dim=-1) * polar.sin()[:, None]
    positions = radius * torch.cat((around, polar.cos()[:, None]), dim=-1)
    focal = 0.5 * size / math.tan(math.radians(fov_degrees) / 2)
    shape = (len(polar), 2)
    return Cameras(
        look_at(positions).float(),
        torch.full(shape, focal),
        torch.full(shape, size / 2),
        width=size,
        height=size,
    )


def spiral_cameras(
    num_views: int, *, size: int, radius: float, fov_degrees: float, phase: float = 0.0
) -> Cameras:
    """Cameras along an Archimedean spiral on the sphere, from above to below, looking at the origin.

    size: pixels, width = height. fov_degrees: full angle of view. phase: radians added to the azimuth.
    The polar angle grows in proportion to the azimuth, as in DiffRF (Mueller et al. 2023). The views are
    spaced evenly in arc length and the number of turns, sqrt(pi V) / 2, makes neighbouring turns just as far
    apart, so that they cover the sphere evenly; the spacing is our own choice.
    """
    if num_views < 1:
        raise ValueError(f"need num_views >= 1, got {num_views}")
    fraction = (torch.arange(num_views, dtype=torch.float64) + 0.5) / num_views
    polar = torch.arccos(1 - 2 * fraction)
    turns = math.sqrt(math.pi * num_views) / 2
    return _cameras_on_sphere(polar, 2 * turns * polar + phase, size, radius, fov_degrees)


def orbit_cameras(
    num_views: int, *, size: int, radius: float, fov_degrees: float, elevation_degrees: float
) -> Cameras:
    """Cameras on a full circle at one elevation above the horizon, looking at the origin; view 0 is at +X."""
    if num_views < 1 or not -90 < elevation_degrees < 90:
        raise ValueError(
            f"need num_views >= 1 and -90 < elevation_degrees < 90, got {num_views} and {elevation_degrees}"
        )
    azimuth = torch.arange(num_views, dtype=torch.float64) * (2 * math.pi / num_views)
    polar = torch.full_like(azimuth, math.radians(90 - elevation_degrees))
    return _cameras_on_sphere(polar, azimuth, size, radius, fov_degrees)
