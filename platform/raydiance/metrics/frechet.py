"""Distances between two sets of images through their features: `fd_views` and `kd_views`.

The formulas are those of FID and KID; the features are not. Published scores use an Inception network with
weights that are not part of this project, so ours carry names of their own and compare only with each other.
"""

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = [
    "KernelDistance",
    "frechet_distance",
    "frechet_spread",
    "gaussian_frechet_distance",
    "kernel_distance",
]


def frechet_distance(features: Tensor, reference: Tensor) -> float:
    """Frechet distance, in float64, between Gaussians fitted to feature sets [N, F] and [M, F], N, M >= 2.

    Means and covariances normalised by n - 1 (Heusel et al. 2017). With few samples it is biased upwards, by
    about F/N of the spread: compare scores only at equal N and M.
    """
    mean_x, covariance_x = _moments(features)
    mean_y, covariance_y = _moments(reference)
    return gaussian_frechet_distance(mean_x, covariance_x, mean_y, covariance_y)


def frechet_spread(features: Tensor, reference: Tensor, num_resamples: int = 40) -> float:
    """The bootstrap standard error of `frechet_distance` over features [N, F] resampled with replacement."""
    draws = []
    for index in range(num_resamples):
        generator = torch.Generator().manual_seed(index)
        chosen = torch.randint(len(features), (len(features),), generator=generator)
        draws.append(frechet_distance(features[chosen], reference))
    return float(torch.tensor(draws).std())


def gaussian_frechet_distance(
    mean_x: Tensor, covariance_x: Tensor, mean_y: Tensor, covariance_y: Tensor
) -> float:
    """|m_x - m_y|^2 + tr(C_x + C_y - 2 (C_x C_y)^(1/2)); Dowson and Landau 1982.

    Means [F], covariances [F, F]. tr (C_x C_y)^(1/2) is the nuclear norm of C_x^(1/2) C_y^(1/2), because the
    eigenvalues of C_x C_y are that product's squared singular values. So only symmetric roots are taken:
    nothing complex, nothing that fails on the singular covariances of small sets, and never less than the
    trace allows.
    """
    root_x, root_y = _symmetric_root(covariance_x), _symmetric_root(covariance_y)
    overlap = torch.linalg.matrix_norm(root_x @ root_y, ord="nuc")
    spread = covariance_x.double().trace() + covariance_y.double().trace() - 2.0 * overlap
    distance = (mean_x.double() - mean_y.double()).square().sum() + spread
    return max(float(distance), 0.0)  # equal sets end within rounding of 0, on either side


class KernelDistance(NamedTuple):
    """Mean and standard deviation of the squared kernel distance over random subsets."""

    mean: float
    std: float


def kernel_distance(
    features: Tensor,
    reference: Tensor,
    *,
    generator: torch.Generator,
    subset_size: int = 1000,
    num_subsets: int = 100,
) -> KernelDistance:
    """Unbiased squared maximum mean discrepancy with the kernel (x . y / F + 1)^3, over random subsets.

    Binkowski et al. 2018, Eq. 4; features [N, F] and [M, F]. Unlike the Frechet distance its expectation does
    not depend on the number of samples; it can be negative. Subsets are drawn without replacement and hold
    min(subset_size, N, M) samples.
    """
    size = min(subset_size, len(features), len(reference))
    if size < 2:
        raise ValueError(f"a kernel distance needs at least 2 samples on each side, got {size}")
    x, y = features.double(), reference.double()
    draws = []
    for _ in range(num_subsets):
        chosen_x = torch.randperm(len(x), generator=generator)[:size]
        chosen_y = torch.randperm(len(y), generator=generator)[:size]
        draws.append(_unbiased_mmd(x[chosen_x], y[chosen_y]))
    values = torch.stack(draws)
    return KernelDistance(float(values.mean()), float(values.std(correction=0)))


def _unbiased_mmd(x: Tensor, y: Tensor) -> Tensor:
    n = len(x)
    within_x, within_y, between = _cubic_kernel(x, x), _cubic_kernel(y, y), _cubic_kernel(x, y)
    within = (within_x.sum() - within_x.trace() + within_y.sum() - within_y.trace()) / (n * (n - 1))
    return within - 2.0 * between.mean()


def _cubic_kernel(x: Tensor, y: Tensor) -> Tensor:
    kernel: Tensor = (x @ y.T / x.shape[1] + 1.0) ** 3
    return kernel


def _moments(features: Tensor) -> tuple[Tensor, Tensor]:
    if features.ndim != 2 or len(features) < 2:
        raise ValueError(f"need features [N, F] of at least 2 samples, got shape {tuple(features.shape)}")
    x = features.double()
    if not bool(torch.isfinite(x).all()):
        raise ValueError("features hold NaN or infinite values: the images behind them are not finite")
    mean = x.mean(0)
    centred = x - mean
    return mean, centred.T @ centred / (len(x) - 1)


def _symmetric_root(covariance: Tensor) -> Tensor:
    """The positive semi-definite root; eigenvalues below 0 are rounding and count as 0."""
    values, vectors = torch.linalg.eigh(covariance.double())
    root: Tensor = (vectors * values.clamp(min=0.0).sqrt()) @ vectors.T
    return root
