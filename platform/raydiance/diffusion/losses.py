"""How noise levels are drawn for training, and how their errors are weighted; pure functions of what is given
to them.

Weights are those of |D - x_0|^2 at noise level sigma, for `Preconditioning.loss(..., weight=...)`; 1 /
sigma^2 is the signal-to-noise ratio.
"""

from collections.abc import Sequence

import torch
from torch import Generator, Tensor

from raydiance.diffusion.schedules import DiscreteSchedule, Schedule
from raydiance.errors import ConfigError

__all__ = [
    "discrete_sigma",
    "edm_weight",
    "log_normal_sigma",
    "min_snr_weight",
    "power_weight",
    "snr_weight",
    "stratified",
    "stratified_discrete_sigma",
    "uniform_time_sigma",
    "uniform_weight",
]


def log_normal_sigma(normal: Tensor, *, mean: float = -1.2, std: float = 1.2) -> Tensor:
    """ln sigma = mean + std * normal [B] (Karras et al. 2022, Table 1: P_mean, P_std)."""
    return torch.exp(mean + std * normal)


def discrete_sigma(schedule: DiscreteSchedule, uniform: Tensor) -> Tensor:
    """The noise level of a training step t = 0 .. T-1 drawn with uniform [B] in [0, 1); float32 [B]."""
    t = (uniform.to(torch.float64) * schedule.num_train_steps).floor()
    return schedule.sigma(t).float()


def uniform_time_sigma(schedule: Schedule, uniform: Tensor) -> Tensor:
    """The noise level of a time drawn uniformly from t_min .. t_max, given uniform [B] in [0, 1); float32."""
    t = schedule.t_min + (schedule.t_max - schedule.t_min) * uniform.to(torch.float64)
    return schedule.sigma(t).float()


def stratified(uniform: Tensor, index: Tensor, count: int) -> Tensor:
    """Uniform numbers [B] spread evenly: the one of item `index` of a batch of `count` falls into its own
    share of [0, 1).
    """
    if count < 1:
        raise ConfigError(f"stratified: need count >= 1, got {count}")
    return (index + uniform) / count


def stratified_discrete_sigma(
    schedule: DiscreteSchedule, indices: Sequence[int], count: int, generators: Sequence[Generator]
) -> Tensor:
    """Noise levels [B] of the training steps of a schedule, drawn evenly over a batch of `count`, of which
    these are the items `indices`, each with its own generator.
    """
    uniform = torch.cat([torch.rand(1, generator=g) for g in generators])
    return discrete_sigma(schedule, stratified(uniform, torch.tensor(indices), count))


def uniform_weight(sigma: Tensor) -> Tensor:
    """1: the squared error of x_0 itself."""
    return torch.ones_like(sigma)


def snr_weight(sigma: Tensor) -> Tensor:
    """1 / sigma^2: the squared error of the noise (Ho et al. 2020, Eq. 14)."""
    return sigma.square().reciprocal()


def min_snr_weight(sigma: Tensor, gamma: float = 5.0) -> Tensor:
    """min(1 / sigma^2, gamma) (Hang et al. 2023)."""
    return snr_weight(sigma).clamp(max=gamma)


def edm_weight(sigma: Tensor, sigma_data: float = 0.5) -> Tensor:
    """(sigma^2 + sigma_data^2) / (sigma sigma_data)^2 (Karras et al. 2022, Table 1)."""
    return (sigma.square() + sigma_data**2) / (sigma * sigma_data).square()


def power_weight(sigma: Tensor, power: float = 1.0) -> Tensor:
    """(1 + sigma^2)^-power, that is alpha_bar^power: full weight near the data, none in pure noise.

    For terms on x_0 that mean something only once x_0 can be seen, such as DiffRF's rendering loss; their own
    omega_t is not published in numbers.
    """
    return (1 + sigma.square()) ** -power
