"""The reference renderer in plain torch: any device, any float dtype, differentiable in everything."""

import torch
from torch import Tensor
from torch.nn import functional as F

from raydiance.fields.cameras import Rays
from raydiance.fields.voxels import VoxelField

__all__ = ["march", "ray_box"]


def ray_box(rays: Rays, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    """Distances [...] at which rays enter and leave a box, in front of their origins; 0 where they miss."""
    origins, directions = rays.origins, rays.directions
    parallel = directions == 0
    inverse = 1 / torch.where(parallel, torch.ones_like(directions), directions)
    one, two = (lower - origins) * inverse, (upper - origins) * inverse
    outside = (origins < lower) | (origins > upper)
    infinity = torch.full_like(one, torch.inf)
    entry = torch.where(parallel, torch.where(outside, infinity, -infinity), torch.minimum(one, two))
    leave = torch.where(parallel, torch.where(outside, -infinity, infinity), torch.maximum(one, two))
    near, far = entry.amax(-1).clamp(min=0), leave.amin(-1)
    hit = far > near
    return torch.where(hit, near, 0), torch.where(hit, far, 0)


def march(
    field: VoxelField, rays: Rays, num_samples: int, jitter: Tensor | None, early_stop: float
) -> Tensor:
    """[B, N, 5]: sum_i w_i c_i (3), sum_i w_i, sum_i w_i t_i; see `rendering`."""
    grid = field.grid
    rays = rays.to(grid.dtype)
    lower, upper = (torch.tensor(p, dtype=grid.dtype, device=grid.device) for p in (field.lower, field.upper))
    near, far = ray_box(rays, lower, upper)
    step = (far - near) / num_samples
    index = torch.arange(num_samples, dtype=grid.dtype, device=grid.device)
    offset = torch.full_like(near, 0.5) if jitter is None else jitter.to(grid)
    t = near[..., None] + (index + offset[..., None]) * step[..., None]
    points = rays.origins[..., None, :] + t[..., None] * rays.directions[..., None, :]
    sample = _trilinear(grid, 2 * (points - lower) / (upper - lower) - 1)
    tau = sample[..., 0].clamp(min=0) * step[..., None]
    transmittance = torch.exp(-F.pad(tau[..., :-1].cumsum(-1), (1, 0)))
    weight = transmittance * -torch.expm1(-tau)
    if early_stop > 0:
        weight = weight * (transmittance >= early_stop)
    colour = (weight[..., None] * sample[..., 1:]).sum(-2)
    return torch.cat((colour, weight.sum(-1)[..., None], (weight * t).sum(-1)[..., None]), dim=-1)


def _trilinear(grid: Tensor, points: Tensor) -> Tensor:
    """Samples [B, N, S, C] of the grid [B, X, Y, Z, C] at points [N, S, 3] or [B, N, S, 3] in [-1, 1]."""
    points = points.flip(-1).expand(grid.shape[0], *points.shape[-3:])
    volume = grid.permute(0, 4, 1, 2, 3)
    sampled = F.grid_sample(volume, points[:, None], padding_mode="border", align_corners=True)
    return sampled[:, :, 0].permute(0, 2, 3, 1)
