"""Data whose noise prediction and probability-flow path are known exactly: Gaussian mixtures with diagonal
covariance.

p_0 = sum_k w_k N(mu_k, diag(v_k)). With noise of level sigma each component becomes N(mu_k, diag(v_k +
sigma^2)), so eps(x, sigma) = -sigma grad ln p(x) = sigma sum_k r_k(x) (x - mu_k) / (v_k + sigma^2), r_k the
responsibilities.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["LABORATORY", "Mixture", "gaussian_path", "ring", "separated", "single", "smooth"]


@dataclass(frozen=True, eq=False)
class Mixture:
    """weights [K], means [K, D], variances [K, D], float64."""

    weights: Tensor
    means: Tensor
    variances: Tensor

    def predict_noise(self, x: Tensor, sigma: Tensor) -> Tensor:
        """eps(x [B, D], sigma [B])."""
        s = sigma.to(x.dtype).view(-1, 1, 1)
        distance = x[:, None, :] - self.means.to(x.dtype)
        variance = self.variances.to(x.dtype) + s.square()
        log_density = self.weights.to(x.dtype).log() - 0.5 * (
            distance.square() / variance + variance.log()
        ).sum(-1)
        share = log_density.softmax(-1)[..., None]
        return s[:, 0] * (share * distance / variance).sum(1)

    def flow(self, x: Tensor, sigma: float, sigma_end: float, steps: int = 2000) -> Tensor:
        """The probability-flow path from sigma to sigma_end > 0, by RK4 in ln sigma."""
        u, h = math.log(sigma), math.log(sigma_end / sigma) / steps

        def slope(point: Tensor, at: float) -> Tensor:
            level = torch.full(x.shape[:1], math.exp(at), dtype=x.dtype)
            return math.exp(at) * self.predict_noise(point, level)

        for _ in range(steps):
            k1 = slope(x, u)
            k2 = slope(x + h / 2 * k1, u + h / 2)
            k3 = slope(x + h / 2 * k2, u + h / 2)
            k4 = slope(x + h * k3, u + h)
            x, u = x + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4), u + h
        return x

    def data(self, x: Tensor, sigma: float, steps: int = 2000) -> Tensor:
        """Where the path from x at sigma ends at clean data (the last hop, from 1e-5, is taken straight)."""
        end = self.flow(x, sigma, 1e-5, steps)
        return end - 1e-5 * self.predict_noise(end, torch.full(x.shape[:1], 1e-5, dtype=x.dtype))


def single(mean: float = 0.3, std: float = 0.7, dim: int = 3) -> Mixture:
    """One Gaussian, whose path is a closed form: see `gaussian_path`."""
    return Mixture(
        torch.ones(1, dtype=torch.float64),
        torch.full((1, dim), mean, dtype=torch.float64),
        torch.full((1, dim), std**2, dtype=torch.float64),
    )


def gaussian_path(mixture: Mixture, x: Tensor, sigma: float, sigma_end: float) -> Tensor:
    """(x - mu) shrinks like the standard deviation sqrt(v + sigma^2)."""
    mean, variance = mixture.means[0], mixture.variances[0]
    return mean + (x - mean) * ((variance + sigma_end**2) / (variance + sigma**2)).sqrt()


def smooth(dim: int = 16, components: int = 10, seed: int = 0) -> Mixture:
    """Overlapping components: no separatrices, so root-mean-square errors behave."""
    g = torch.Generator().manual_seed(seed)
    means = 0.4 * torch.randn(components, dim, generator=g, dtype=torch.float64)
    variances = (0.3 + 0.4 * torch.rand(components, dim, generator=g, dtype=torch.float64)).square()
    weights = torch.rand(components, generator=g, dtype=torch.float64) + 0.2
    return Mixture(weights / weights.sum(), means, variances)


def separated(dim: int = 16, components: int = 10, seed: int = 0) -> Mixture:
    """Components apart from each other, each axis with a standard deviation of its own in 0.05 .. 0.5."""
    g = torch.Generator().manual_seed(seed)
    means = 0.8 * torch.randn(components, dim, generator=g, dtype=torch.float64)
    variances = (0.05 * 10 ** torch.rand(components, dim, generator=g, dtype=torch.float64)).square()
    weights = torch.rand(components, generator=g, dtype=torch.float64) + 0.2
    return Mixture(weights / weights.sum(), means, variances)


def ring(components: int = 8, radius: float = 1.3, std: float = 0.15) -> Mixture:
    """Components on a circle in the plane, and one in its centre."""
    angle = torch.arange(components, dtype=torch.float64) * (2 * math.pi / components)
    means = torch.cat(
        [radius * torch.stack([angle.cos(), angle.sin()], 1), torch.zeros(1, 2, dtype=torch.float64)]
    )
    count = components + 1
    weights = torch.full((count,), 1 / count, dtype=torch.float64)
    return Mixture(weights, means, torch.full((count, 2), std**2, dtype=torch.float64))


LABORATORY: dict[str, Callable[[], Mixture]] = {"smooth": smooth, "separated": separated, "ring": ring}
"""The mixtures on which solvers are compared: judge by the mean square on smooth, by the median item on the
others.
"""
