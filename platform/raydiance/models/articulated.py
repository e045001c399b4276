"""Articulated fields: one canonical volume for each object, and volumetric linear blend skinning into its poses.

Legend: O objects, P parts, R resolution, R_p and t_p the pose of part p: x_posed = R_p x_canonical + t_p. Each
part says where a point x_d of the posed world came from, and learned volumes V say which part is to be believed:

    y_p = R_p^T (x_d - t_p),   w_p = softmax_p V_p(y_p),   x_c = sum_p w_p y_p

after "AutoDecoding Latent 3D Diffusion Models" (Ntavelis et al. 2023, the part on non-rigid objects). Volumes are
sums of a pyramid of grids, so that a step moves coarse shapes, not single voxels: our own choice.
"""

from typing import Annotated

import torch
from annotated_types import Gt
from torch import Tensor, nn
from torch.nn import functional as F

from raydiance.models.autodecoder import AutodecoderSpec, activate
from raydiance.spec import spec

__all__ = ["ArticulatedField", "ArticulatedSpec", "candidates"]

ABSENT = -1e4  # the logit of a part that an object does not have
ACTIVATION = AutodecoderSpec()


@spec
class ArticulatedSpec:
    """The grids of a field's pyramid, coarse to fine, and those of the blend weights.

    skinning: without it nothing moves, and one volume has to be right for all poses.
    """

    resolutions: tuple[int, ...] = (8, 16, 32)
    weight_resolutions: tuple[int, ...] = (8, 16)
    skinning: bool = True
    sharpness: Annotated[float, Gt(0)] = 4.0  # of the softmax

    def __post_init__(self) -> None:
        for name in ("resolutions", "weight_resolutions"):
            sizes = getattr(self, name)
            if not sizes or min(sizes) < 2 or list(sizes) != sorted(set(sizes)):
                raise ValueError(
                    f"{name} must be sizes from 2 up, each larger than the one before, got {sizes}"
                )


class VolumePyramid(nn.Module):
    """Volumes [O, C, R, R, R] as sums of grids of several sizes."""

    def __init__(self, num_objects: int, channels: int, resolutions: tuple[int, ...]) -> None:
        super().__init__()
        self.levels = nn.ParameterList(
            torch.zeros(num_objects, channels, size, size, size) for size in resolutions
        )

    def forward(self, objects: Tensor) -> Tensor:
        """[B, C, R, R, R] of the objects [B]; axes x, y, z."""
        size = self.levels[-1].shape[-3:]
        volumes: Tensor = self.levels[-1][objects]
        for level in self.levels[:-1]:
            volumes = volumes + F.interpolate(level[objects], size, mode="trilinear", align_corners=True)
        return volumes


class ArticulatedField(nn.Module):
    """Canonical fields and blend weights of O objects of up to P parts; num_parts [O]."""

    num_parts: Tensor

    def __init__(self, spec: ArticulatedSpec, num_parts: Tensor) -> None:
        super().__init__()
        self.spec = spec
        self.register_buffer("num_parts", num_parts.clone())
        most = int(num_parts.max())
        self.volumes = VolumePyramid(len(num_parts), 4, spec.resolutions)
        self.weights = VolumePyramid(len(num_parts), most, spec.weight_resolutions) if spec.skinning else None

    def forward(self, objects: Tensor) -> Tensor:
        """Canonical grids [B, R, R, R, 4] of the objects [B]: density, RGB."""
        return activate(self.volumes(objects), ACTIVATION)

    def look_up(
        self, objects: Tensor, poses: Tensor, points: Tensor, *, grid: Tensor | None = None
    ) -> Tensor:
        """Density and colour [B, N, S, 4] at points [B, N, S, 3] of objects [B] in poses [B, P, 3, 4].

        grid: of `forward`, where it is at hand. Beyond the canonical box there is nothing.
        """
        grid = self(objects) if grid is None else grid
        places, _ = self.warp(objects, poses, points)
        return _sample(grid.permute(0, 4, 1, 2, 3), places)

    def warp(self, objects: Tensor, poses: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
        """Canonical places x_c [B, N, S, 3] of points [B, N, S, 3] of the posed world, and w [B, N, S, P]."""
        if self.weights is None:
            return points, points.new_ones(*points.shape[:-1], 1)
        places = candidates(poses, points)
        batch, parts = places.shape[:2]
        logits = _sample(self.weights(objects).flatten(0, 1)[:, None], places.flatten(0, 1))
        logits = self.spec.sharpness * logits.reshape(batch, parts, *points.shape[1:-1])
        absent = torch.arange(parts, device=points.device) >= self.num_parts[objects, None]
        logits = logits.masked_fill(absent[..., None, None], ABSENT)
        weights = logits.softmax(dim=1)
        return (weights[..., None] * places).sum(dim=1), weights.movedim(1, -1)


def candidates(poses: Tensor, points: Tensor) -> Tensor:
    """y_p = R_p^T (x_d - t_p): [B, P, N, S, 3], of poses [B, P, 3, 4] and points [B, N, S, 3]."""
    away = points[:, None] - poses[:, :, None, None, :, 3]
    return torch.einsum("bpij,bpnsi->bpnsj", poses[..., :3], away)


def _sample(volumes: Tensor, points: Tensor) -> Tensor:
    """[B, N, S, C] of volumes [B, C, X, Y, Z] at points [B, N, S, 3] in [-1, 1]; 0 beyond."""
    where = points.flip(-1)[:, None]
    return F.grid_sample(volumes, where, align_corners=True)[:, :, 0].movedim(1, -1)
