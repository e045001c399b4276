"""The CPU renderer: compiled marching, and the analytic gradient with respect to the grid."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd.function import once_differentiable

from raydiance.fields import kernels
from raydiance.fields.cameras import Rays
from raydiance.fields.occupancy import COARSE, mark_blocks, mark_cells
from raydiance.fields.threads import for_ranges
from raydiance.fields.voxels import VoxelField

__all__ = ["march"]

Array = NDArray[Any]
CHUNK_SAMPLES = 1 << 20  # gradients at samples that wait to be added to the grid: 16 MiB
NOWHERE = np.empty((0, 0, 0, 0), np.uint8)


@dataclass(frozen=True)
class _Lines:
    """The samples of B * N rays, as the kernels want them."""

    cells: tuple[int, ...]
    box: Array
    origins: Array
    directions: Array
    offset: Array

    @property
    def arguments(self) -> tuple[Any, ...]:
        return self.cells, self.box, self.origins, self.directions, self.offset


def march(
    field: VoxelField,
    rays: Rays,
    num_samples: int,
    jitter: Tensor | None,
    early_stop: float,
    *,
    skip_empty: bool,
) -> Tensor:
    """[B, N, 5]: sum_i w_i c_i (3), sum_i w_i, sum_i w_i t_i; see `rendering`."""
    size = np.array(field.resolution)
    lower, upper = np.array(field.lower, float), np.array(field.upper, float)
    box = np.stack((lower, upper, (size - 1) / (upper - lower), (0, 0, num_samples)))
    shape = (len(field), rays.shape[-1])
    offset = np.full(shape, 0.5, np.float32) if jitter is None else _array(jitter)
    lines = _Lines(
        tuple(int(n) - 1 for n in size),
        box,
        _array(rays.origins).reshape(-1, 3),
        _array(rays.directions).reshape(-1, 3),
        offset.reshape(-1),
    )
    raw: Tensor = _March.apply(field.grid, lines, early_stop, skip_empty)  # type: ignore[no-untyped-call]
    return raw.view(*shape, 5)


def _array(tensor: Tensor) -> Array:
    return np.asarray(tensor.detach().to("cpu", torch.float32).contiguous())


def _basis(grid: Tensor | Array) -> Array | None:
    """Room for one thread's harmonics; None, for which plainer code is compiled, if the field has none."""
    return None if grid.shape[-1] == 4 else np.zeros(9)


def _occupancy(grid: Array) -> tuple[Array, Array]:
    """Which cells of the fields hold any density, and how far each block of cells is from one that does."""
    b, x, y, z, _ = grid.shape
    occupied = np.empty((b, x - 1, y - 1, z - 1), np.uint8)
    away = np.empty((b, *(-(-(n - 1) // COARSE) for n in (x, y, z))), np.uint8)
    for index in range(b):

        def work(begin: int, end: int, index: int = index) -> None:
            mark_cells(grid[index], begin, end, occupied[index])

        for_ranges(work, x - 1, smallest=16)
        mark_blocks(occupied[index], away[index])
    return occupied, away


class _March(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, grid: Tensor, lines: _Lines, early_stop: float, skip_empty: bool) -> Tensor:
        values = _array(grid)
        flat = values.reshape(len(values), -1)
        occupied, away = _occupancy(values) if skip_empty else (NOWHERE, NOWHERE)
        ctx.save_for_backward(grid)
        ctx.rest = (lines, (occupied, away), early_stop)
        out = np.empty((len(lines.offset), 5), np.float32)

        def work(begin: int, end: int) -> None:
            if skip_empty:
                kernels.march_skipping(
                    flat, _basis(grid), *lines.arguments, occupied, away, early_stop, begin, end, out
                )
            else:
                kernels.march_dense(flat, _basis(grid), *lines.arguments, early_stop, begin, end, out)

        for_ranges(work, len(out), smallest=128)
        return torch.from_numpy(out)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None, None]:
        (grid,) = ctx.saved_tensors
        lines, skip, early_stop = ctx.rest
        gradient = _backward(_array(grid), lines, skip, early_stop, _array(upstream))
        return torch.from_numpy(gradient), None, None, None


def _backward(
    values: Array, lines: _Lines, skip: tuple[Array, Array], early_stop: float, upstream: Array
) -> Array:
    """The gradient with respect to the grid: first at samples, parallel over rays; then at planes of the
    grids.

    A plane is written by one thread, which takes the samples in their order: no race, and the same bits
    whatever the number of threads and of objects.
    """
    num_objects, planes = values.shape[:2]
    num_rays, num_samples = len(upstream) // num_objects, int(lines.box[3, 2])
    flat = values.reshape(num_objects, -1)
    gradient = np.zeros_like(values)
    targets = gradient.reshape(num_objects, -1)
    chunk = min(max(1, CHUNK_SAMPLES // num_samples), len(upstream))
    samples = np.empty((chunk, num_samples, 4), np.float32)
    kept, counts = np.empty((chunk, num_samples), np.int32), np.empty(chunk, np.int64)
    for first in range(0, len(upstream), chunk):
        last = min(first + chunk, len(upstream))

        def march_part(begin: int, end: int, first: int = first) -> None:
            kernels.march_backward(
                flat, _basis(values), *lines.arguments, *skip, early_stop, upstream,
                first + begin, first + end, samples[begin:end], kept[begin:end], counts[begin:end],
            )  # fmt: skip

        def scatter_part(begin: int, end: int, first: int = first, last: int = last) -> None:
            for index in range(begin // planes, (end - 1) // planes + 1):
                part = max(begin - index * planes, 0), min(end - index * planes, planes)
                index += first // num_rays
                rays = max(first, index * num_rays), min(last, (index + 1) * num_rays), num_rays
                kernels.scatter_samples(
                    samples, kept, counts, _basis(values), *lines.arguments, rays, first, part, targets[index]
                )

        for_ranges(march_part, last - first, smallest=128)
        touched = (last - 1) // num_rays - first // num_rays + 1
        for_ranges(scatter_part, touched * planes, smallest=8)
    return gradient
