"""The reference renderer in plain torch: any device, any float dtype, differentiable in everything."""

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from raydiance.fields.cameras import Rays
from raydiance.fields.harmonics import basis
from raydiance.fields.voxels import VoxelField

__all__ = ["composite", "march", "ray_box", "segments"]

CACHED_SAMPLES = 1 << 17  # what a CPU's cache holds: about 100 bytes each
PIECE_SAMPLES = 1 << 22
KEPT_SAMPLES = 1 << 24


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
    field: VoxelField,
    rays: Rays,
    num_samples: int,
    jitter: Tensor | None,
    early_stop: float,
    chunk: int | None = None,
) -> Tensor:
    """[B, N, 5]: sum_i w_i c_i (3), sum_i w_i, sum_i w_i t_i; see `rendering`.

    chunk: rays of each object worked on at a time (None: what keeps a piece in the cache, or in a part of the
    GPU's memory). Where the gradients of all pieces together would need much memory, each piece is rendered
    again on the way back instead.
    """
    grid = field.grid
    rays = rays.to(grid.dtype)
    num_objects, num_rays = len(field), rays.shape[-1]
    offset = grid.new_full((num_objects, num_rays), 0.5) if jitter is None else jitter.to(grid)
    with_grad = torch.is_grad_enabled() and grid.requires_grad
    if chunk is None:
        in_cache = grid.device.type == "cpu" and not with_grad
        chunk = max(1, (CACHED_SAMPLES if in_cache else PIECE_SAMPLES) // (num_objects * num_samples))
    again = with_grad and num_objects * num_rays * num_samples > KEPT_SAMPLES
    pieces = []
    for first in range(0, num_rays, chunk):
        part = (slice(None), slice(first, first + chunk))
        piece = (field, rays[part[-len(rays.shape) :]], num_samples, offset[part], early_stop)
        if again:
            pieces.append(checkpoint(_march_piece, *piece, use_reentrant=False, preserve_rng_state=False))
        else:
            pieces.append(_march_piece(*piece))
    return torch.cat(pieces, dim=1) if pieces else grid.new_zeros(num_objects, 0, 5)


def _march_piece(
    field: VoxelField, rays: Rays, num_samples: int, offset: Tensor, early_stop: float
) -> Tensor:
    grid = field.grid
    lower, upper = (torch.tensor(p, dtype=grid.dtype, device=grid.device) for p in (field.lower, field.upper))
    points, t, step = segments(rays, lower, upper, num_samples, offset)
    sample = _trilinear(grid, 2 * (points - lower) / (upper - lower) - 1)
    seen = composite(sample, t, step, early_stop)
    if field.degree > 0:  # one direction along a ray, so its harmonics come last
        colour = seen[..., :-2]
        turned = basis(rays.directions, field.degree)[..., None] * colour.reshape(*colour.shape[:-1], -1, 3)
        seen = torch.cat((turned.sum(-2), seen[..., -2:]), dim=-1)
    return seen


def segments(
    rays: Rays, lower: Tensor, upper: Tensor, num_samples: int, offset: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Points [..., S, 3] and distances [..., S] of the samples, and the lengths [...] of a ray's segments.

    offset [...] in [0, 1): where in its segment each sample of a ray lies.
    """
    near, far = ray_box(rays, lower, upper)
    step = (far - near) / num_samples
    index = torch.arange(num_samples, dtype=near.dtype, device=near.device)
    t = near[..., None] + (index + offset[..., None]) * step[..., None]
    return rays.origins[..., None, :] + t[..., None] * rays.directions[..., None, :], t, step


def composite(sample: Tensor, t: Tensor, step: Tensor, early_stop: float = 0.0) -> Tensor:
    """[..., C + 1] out of samples [..., S, C], density first: the sums of w_i c_i (C - 1), w_i and w_i t_i."""
    tau = sample[..., 0].clamp(min=0) * step[..., None]
    transmittance = torch.exp(-F.pad(tau[..., :-1].cumsum(-1), (1, 0)))
    weight = transmittance * -torch.expm1(-tau)
    if early_stop > 0:
        weight = weight * (transmittance >= early_stop)
    colour = (weight[..., None] * sample[..., 1:]).sum(-2)
    return torch.cat((colour, weight.sum(-1)[..., None], (weight * t).sum(-1)[..., None]), dim=-1)


def _trilinear(grid: Tensor, points: Tensor) -> Tensor:
    """Samples [B, N, S, C] of the grid [B, X, Y, Z, C] at points [B, N, S, 3] in [-1, 1].

    grid_sample on the CPU runs one thread per object, so few objects are repeated and their rays shared out.
    """
    num_objects, num_rays, num_samples = points.shape[:3]
    copies = max(1, torch.get_num_threads() // num_objects) if grid.device.type == "cpu" else 1
    if num_rays % copies:
        copies = 1
    volume = grid.permute(0, 4, 1, 2, 3)[:, None].expand(-1, copies, -1, -1, -1, -1).flatten(0, 1)
    where = points.flip(-1).reshape(num_objects * copies, 1, -1, num_samples, 3)
    sampled = F.grid_sample(volume, where, padding_mode="border", align_corners=True)
    return sampled[:, :, 0].permute(0, 2, 3, 1).reshape(num_objects, num_rays, num_samples, -1)
