"""How well a denoiser denoises, by a measure that does not depend on how it was trained.

A loss is the mean over the noise levels of its own training, with weights of its own: trainings on other levels
have another loss. Here all are asked about the same noisy data.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from raydiance.diffusion.preconditioning import expand
from raydiance.training.randomness import sample_generator

__all__ = ["LEVELS", "relative_error"]

LEVELS = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)  # of the noise, in standard deviations of the data
SEED = 20_000_003  # noise that no training draws


@torch.no_grad()
def relative_error(denoise: Callable[[Tensor, Tensor], Tensor], x_0: Tensor) -> float:
    """The squared error of D(x; sigma) on x_0 [B, ...], over that of the best denoiser of white Gaussian data with
    the same spread s, sigma^2 s^2 / (sigma^2 + s^2); its mean over noise levels. Below 1: it knows something of
    the data.
    """
    spread = float((x_0 - x_0.mean()).square().mean().sqrt())
    errors = []
    for index, level in enumerate(LEVELS):
        noise = torch.stack(
            [
                torch.randn(each.shape, generator=sample_generator(SEED, index, row))
                for row, each in enumerate(x_0)
            ]
        ).to(x_0.device)
        sigma = torch.full((len(x_0),), level * spread, device=x_0.device)
        error = (denoise(x_0 + expand(sigma, x_0) * noise, sigma) - x_0).square().mean()
        errors.append(float(error) * (1 + level**2) / (level * spread) ** 2)
    return sum(errors) / len(errors)
