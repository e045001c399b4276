"""The CPU renderer: compiled marching, and the analytic gradient with respect to the grid."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd.function import once_differentiable

from raydiance.fields import kernels
from raydiance.fields.cameras import Rays
from raydiance.fields.threads import for_ranges
from raydiance.fields.voxels import VoxelField

__all__ = ["march"]

Array = NDArray[Any]
CHUNK_SAMPLES = 1 << 18  # gradients at samples that wait to be added to the grid: 4 MiB


def march(
    field: VoxelField,
    rays: Rays,
    num_samples: int,
    jitter: Tensor | None,
    early_stop: float,
    skip_empty: bool,
) -> Tensor:
    """[B, N, 5]: sum_i w_i c_i (3), sum_i w_i, sum_i w_i t_i; see `rendering`."""
    size = np.array(field.resolution)
    lower, upper = np.array(field.lower), np.array(field.upper)
    box = np.stack((lower, upper, (size - 1) / (upper - lower), (0, 0, num_samples)))
    shape = (len(field), rays.shape[-1])
    offset = np.full(shape, 0.5, np.float32) if jitter is None else _array(jitter)
    lines = (_array(rays.origins).reshape(-1, 3), _array(rays.directions).reshape(-1, 3), offset.reshape(-1))
    raw: Tensor = _March.apply(  # type: ignore[no-untyped-call]
        field.grid, (tuple(int(n) - 1 for n in size), box, *lines), early_stop, skip_empty
    )
    return raw.view(*shape, 5)


def _array(tensor: Tensor) -> Array:
    return tensor.detach().to("cpu", torch.float32).contiguous().numpy()


def _occupancy(grid: Array) -> Array:
    """uint8 [B, X-1, Y-1, Z-1]: which interpolation cells hold any density."""
    b, x, y, z, _ = grid.shape
    occupied = np.empty((b, x - 1, y - 1, z - 1), np.uint8)

    def work(begin: int, end: int) -> None:
        for index in range(begin, end):
            kernels.cell_occupancy(grid[index], occupied[index])

    for_ranges(work, b)
    return occupied


class _March(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, grid: Tensor, lines: Any, early_stop: float, skip_empty: bool) -> Tensor:
        values = _array(grid)
        occupied = _occupancy(values) if skip_empty else np.empty((0, 0, 0, 0), np.uint8)
        ctx.save_for_backward(grid)
        ctx.rest = (lines, occupied, early_stop)
        out = np.empty((len(lines[-1]), 5), np.float32)
        flat = values.reshape(len(values), -1)

        def work(begin: int, end: int) -> None:
            kernels.march_forward(flat, *lines, occupied, early_stop, begin, end, out)

        for_ranges(work, len(out), smallest=64)
        return torch.from_numpy(out)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None, None]:
        (grid,) = ctx.saved_tensors
        lines, occupied, early_stop = ctx.rest
        gradient = _backward(_array(grid), lines, occupied, early_stop, _array(upstream))
        return torch.from_numpy(gradient), None, None, None


def _backward(values: Array, lines: Any, occupied: Array, early_stop: float, upstream: Array) -> Array:
    """The gradient with respect to the grid: samples first, parallel over rays; then planes of the grid."""
    num_objects, planes = values.shape[:2]
    num_rays = len(upstream) // num_objects
    num_samples = int(lines[1][3, 2])
    flat = values.reshape(num_objects, -1)
    gradient = np.zeros_like(values)
    targets = gradient.reshape(num_objects, -1)
    chunk = max(1, CHUNK_SAMPLES // num_samples)
    samples = np.empty((min(chunk, len(upstream)), num_samples, 4), np.float32)
    for first in range(0, len(upstream), chunk):
        last = min(first + chunk, len(upstream))

        def march(begin: int, end: int, first: int = first) -> None:
            part = samples[begin:end]
            kernels.march_backward(
                flat, *lines, occupied, early_stop, upstream, first + begin, first + end, part
            )

        def scatter(begin: int, end: int, first: int = first, last: int = last) -> None:
            for index in range(first // num_rays, (last - 1) // num_rays + 1):
                kernels.scatter_samples(
                    samples, *lines, num_rays, first, last, index, begin, end, targets[index]
                )

        for_ranges(march, last - first, smallest=64)
        for_ranges(scatter, planes, smallest=8)
    return gradient
