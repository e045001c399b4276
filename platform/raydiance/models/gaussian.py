"""The global path in the principal directions of the data: it starts as the best denoiser of normal data.

Legend: n numbers of an item, m their mean, V [K, n] orthonormal directions, lambda_k the variance along direction
k, rho^2 that along each other direction (probabilistic PCA, Tipping & Bishop 1999), u = V (x - m), s sigma_data.

For normal data the denoiser is linear, D(x; sigma) = m + sum_k lambda_k / (lambda_k + sigma^2) u_k V_k + the same
with rho^2 for what lies in no direction. Sampling with it is drawing from that normal distribution, which is
what a diffusion model must beat, so training begins there. What is learned comes on top, preconditioned along each
direction as EDM is as a whole (Karras et al. 2022, Table 1, lambda_k for sigma_data^2):
sqrt(lambda_k) sigma / sqrt(lambda_k + sigma^2) G_k(u / sqrt(lambda + sigma^2)).
"""

from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

from raydiance.models.whole import GlobalPath

__all__ = ["GaussianPath"]

MAX_FITTED = 2048  # items that the directions are found from; their Gram matrix has that many rows


class GaussianPath(nn.Module):
    """EDM's F for D above: [B, n] at ln(sigma) / 4 -> [B, n]; the Gaussian comes from `fit` or loaded weights."""

    def __init__(self, size: int, num_directions: int, path: GlobalPath) -> None:
        super().__init__()
        self.path = path
        # Parameters that no gradient moves, not buffers: DDP sends those round at every step.
        self.mean = _fixed(torch.zeros(size))
        self.basis = _fixed(torch.zeros(num_directions, size))
        self.variances = _fixed(torch.zeros(num_directions))
        self.rest = _fixed(torch.ones(1))
        self.sigma_data = _fixed(torch.ones(1))

    @torch.no_grad()
    def fit(self, items: Tensor, sigma_data: float) -> None:
        """Take mean and covariance of items [N, n], N >= 2; directions beyond N - 1 stay empty, without effect."""
        items = items[:MAX_FITTED].double()
        mean = items.mean(0)
        values, vectors = torch.linalg.eigh((items - mean) @ (items - mean).T)
        count = min(len(self.basis), len(items) - 1)
        values, vectors = values.flip(0)[:count].clamp(min=1e-12), vectors.flip(1)[:, :count]
        self.mean.copy_(mean)
        self.basis.zero_()[:count] = ((vectors / values.sqrt()).T @ (items - mean)).float()
        self.variances.zero_()[:count] = (values / (len(items) - 1)).float()
        left = (items - mean).square().sum() / (len(items) - 1) - values.sum() / (len(items) - 1)
        self.rest.fill_(float(left.clamp(min=0.0)) / max(1, items.shape[1] - count))
        self.sigma_data.fill_(sigma_data)

    def forward(self, x: Tensor, noise_level: Tensor, embedding: Tensor, tokens: Tensor | None) -> Tensor:
        """x: c_in times the noisy items [B, n]."""
        sigma, s = (4 * noise_level.float()).exp()[:, None], self.sigma_data
        c_in = (sigma.square() + s.square()).rsqrt()
        deviation = x / c_in - self.mean
        total = self.variances + sigma.square()
        # F = (D - c_skip x) / c_out with sigma^2 taken out of both, so that nothing cancels at small sigma.
        along, across = (
            (self.variances - s.square()) / total,
            (self.rest - s.square()) / (self.rest + sigma.square()),
        )
        with _exact(x):
            u = deviation @ self.basis.T
            linear = self.mean + across * deviation + ((along - across) * u) @ self.basis
        learned = self.path(u * total.rsqrt(), embedding, tokens)
        scaled = learned * (self.variances / total).sqrt() / (s * c_in)
        with _exact(x):
            out: Tensor = sigma * c_in / s * linear + scaled @ self.basis
        return out.to(x.dtype)

    def error(self, residual: Tensor, sigma: Tensor) -> Tensor:
        """The mean square [B] of a residual of F [B, n] over the directions, each in its own unit of G.

        So small directions count as much as large ones. Residuals along no direction are not counted.
        """
        s = self.sigma_data
        with _exact(residual):
            along = residual @ self.basis.T
        total = self.variances + sigma[:, None].square()
        c_in = (sigma[:, None].square() + s.square()).rsqrt()
        filled = self.variances > 0
        unit = torch.where(filled, total / self.variances.clamp(min=1e-30), 0.0)
        return ((along * s * c_in).square() * unit).sum(1) / filled.sum().clamp(min=1)


def _exact(like: Tensor) -> AbstractContextManager[None]:
    """Inside, products are in the type of their factors: in half precision the small directions would drown."""
    return torch.autocast(like.device.type, enabled=False)


def _fixed(value: Tensor) -> nn.Parameter:
    return nn.Parameter(value, requires_grad=False)
