"""The GPU renderer: fused marching that stores no sample, and its analytic gradient, in float32."""

import importlib.util
import os
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from raydiance.fields.cameras import Rays
from raydiance.fields.harmonics import basis
from raydiance.fields.voxels import VoxelField

__all__ = ["march", "why_not"]

BLOCK = 32  # rays of a program: neighbours, so that they skip and stop together


def why_not(device: torch.device, dtype: torch.dtype) -> str | None:
    """Why this backend cannot march such a grid; None if it can.

    TRITON_INTERPRET=1 runs the kernels on the CPU, slowly: that is for tests.
    """
    if importlib.util.find_spec("triton") is None:
        return "the package triton is not installed"
    if device.type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
        return f"it needs a CUDA device, and the grid is on {device}"
    if dtype not in (torch.float32, torch.float16, torch.bfloat16):
        return f"it marches in float32, and the grid is {dtype}"
    return None


@dataclass(frozen=True)
class _Lines:
    """The rays as the kernels want them, and what is the same for all."""

    harmonics: Tensor
    origins: Tensor
    directions: Tensor
    offset: Tensor
    occupied: Tensor
    settings: tuple[Any, ...]
    constants: dict[str, Any]

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return self.harmonics, self.origins, self.directions, self.offset, self.occupied


def march(
    field: VoxelField,
    rays: Rays,
    num_samples: int,
    jitter: Tensor | None,
    early_stop: float,
    *,
    skip_empty: bool,
) -> Tensor:
    """[B, N, 5]: sum_i w_i c_i (3), sum_i w_i, sum_i w_i t_i; see `rendering`.

    A grid of 16 bits, as autocast makes them, is marched in float32.
    """
    grid = field.grid.float().contiguous()
    shape, channels = (len(field), rays.shape[-1]), grid.shape[-1]
    offset = torch.full(shape, 0.5) if jitter is None else jitter

    def ready(tensor: Tensor) -> Tensor:
        return tensor.detach().to(grid.device, torch.float32).contiguous()

    shared = int(len(rays.shape) == 1)
    size = (field.lower, field.upper, field.resolution, channels)
    lines = _Lines(
        ready(basis(rays.directions, field.degree)),
        ready(rays.origins),
        ready(rays.directions),
        ready(offset),
        _occupancy(grid.detach()) if skip_empty else grid.new_empty(0, dtype=torch.int8),
        (*size, shape[1], shape[0] * shape[1], shared, num_samples, early_stop),
        {"BLOCK": BLOCK, "WIDTH": 1 << (channels - 1).bit_length(), "SKIP": skip_empty},
    )
    raw: Tensor = _March.apply(grid, lines)  # type: ignore[no-untyped-call]
    return raw.view(*shape, 5)


def _occupancy(grid: Tensor) -> Tensor:
    """[B, X - 1, Y - 1, Z - 1] int8: 1 where a corner of the cell has density. A NaN counts: it must show."""
    solid = (~(grid[..., 0] <= 0)).float()
    return F.max_pool3d(solid[:, None], 2, stride=1)[:, 0].to(torch.int8).contiguous()


class _March(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, grid: Tensor, lines: _Lines) -> Tensor:
        from raydiance.fields.triton_kernels import march_forward

        total = lines.offset.numel()
        out = grid.new_zeros(total, 5)
        if total:
            march_forward[(-(-total // BLOCK),)](
                grid, *lines.tensors, out, *lines.settings, **lines.constants
            )
        ctx.save_for_backward(grid, out)
        ctx.lines = lines
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None]:
        from raydiance.fields.triton_kernels import march_backward

        (grid, out), lines = ctx.saved_tensors, ctx.lines
        gradient = torch.zeros_like(grid)
        if len(out):
            march_backward[(-(-len(out) // BLOCK),)](
                grid, *lines.tensors, out, upstream.contiguous(), gradient, *lines.settings, **lines.constants
            )
        return gradient, None
