"""Losses between rendered and true images, and penalties on fields.

Images are [..., H, W, C] in [0, 1]; grids [B, X, Y, Z, 4], density first. Each loss is a mean, a scalar.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["density_sparsity", "pyramid_l1", "structural_dissimilarity", "total_variation"]


def pyramid_l1(image: Tensor, truth: Tensor, num_levels: int) -> Tensor:
    """The mean L1 distance over `num_levels` scales, each half the size of the one before."""
    a, b = _planes(image), _planes(truth)
    total = (a - b).abs().mean()
    for _ in range(num_levels - 1):
        a, b = F.avg_pool2d(a, 2), F.avg_pool2d(b, 2)
        total = total + (a - b).abs().mean()
    return total / num_levels


def structural_dissimilarity(image: Tensor, truth: Tensor, *, window: int = 5) -> Tensor:
    """1 - SSIM over flat windows of `window` pixels. Wang et al. 2004, Eq. 13, C1 = 0.01^2, C2 = 0.03^2."""
    a, b = _planes(image), _planes(truth)
    mu_a, mu_b = F.avg_pool2d(a, window, 1), F.avg_pool2d(b, window, 1)
    var_a = F.avg_pool2d(a * a, window, 1) - mu_a**2
    var_b = F.avg_pool2d(b * b, window, 1) - mu_b**2
    covariance = F.avg_pool2d(a * b, window, 1) - mu_a * mu_b
    c_1, c_2 = 0.01**2, 0.03**2
    similarity = ((2 * mu_a * mu_b + c_1) * (2 * covariance + c_2)) / (
        (mu_a**2 + mu_b**2 + c_1) * (var_a + var_b + c_2)
    )
    return 1 - similarity.mean()


def total_variation(grid: Tensor, cell: float) -> Tensor:
    """The mean difference between neighbouring cells of the opacity of one cell and of the colour it shows.

    cell: edge length of a cell. Opacity 1 - exp(-density * cell) bounds what a solid, sharp surface costs.
    """
    opacity = opacity_of_cells(grid, cell)
    shown = torch.cat([opacity, grid[..., 1:] * opacity], dim=-1)
    return torch.stack([shown.diff(dim=axis).abs().mean() for axis in (1, 2, 3)]).sum()


def density_sparsity(grid: Tensor, cell: float) -> Tensor:
    """The mean opacity of a cell: what space would be filled with if nothing spoke against it."""
    return opacity_of_cells(grid, cell).mean()


def opacity_of_cells(grid: Tensor, cell: float) -> Tensor:
    """1 - exp(-density * cell): [B, X, Y, Z, 1]."""
    return -torch.expm1(-grid[..., :1] * cell)


def _planes(image: Tensor) -> Tensor:
    """[..., H, W, C] -> [n, C, H, W]."""
    return image.reshape(-1, *image.shape[-3:]).permute(0, 3, 1, 2)
