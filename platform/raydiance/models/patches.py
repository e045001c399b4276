"""Neighbouring positions as channels of one, and the way back."""

from torch import Tensor

__all__ = ["coarser", "finer"]


def coarser(x: Tensor, patch: int) -> Tensor:
    """Neighbours put side by side: [B, C, *] -> [B, C, patch^dims, * / patch]."""
    dims = x.ndim - 2
    split = [part for size in x.shape[2:] for part in (size // patch, patch)]
    order = [0, 1, *range(3, 3 + 2 * dims, 2), *range(2, 2 + 2 * dims, 2)]
    parted = x.reshape(*x.shape[:2], *split).permute(order)
    return parted.reshape(*x.shape[:2], patch**dims, *split[::2])


def finer(x: Tensor, patch: int) -> Tensor:
    """The way back: [B, C patch^dims, *] -> [B, C, * patch]."""
    dims, sizes = x.ndim - 2, x.shape[2:]
    parted = x.reshape(len(x), -1, *(patch,) * dims, *sizes)
    order = [0, 1, *(axis for i in range(dims) for axis in (2 + dims + i, 2 + i))]
    return parted.permute(order).reshape(len(x), parted.shape[1], *(size * patch for size in sizes))
