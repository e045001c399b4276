"""How noise levels are drawn for training, as pure functions of the noise given to them."""

import torch
from torch import Tensor

from raydiance.diffusion.schedules import DiscreteSchedule, Schedule

__all__ = ["discrete_sigma", "log_normal_sigma", "stratified", "uniform_time_sigma"]


def log_normal_sigma(normal: Tensor, *, mean: float = -1.2, std: float = 1.2) -> Tensor:
    """ln sigma = mean + std * normal [B] (Karras et al. 2022, Table 1: P_mean, P_std)."""
    return torch.exp(mean + std * normal)


def discrete_sigma(schedule: DiscreteSchedule, uniform: Tensor) -> Tensor:
    """The noise level of a training step t = 0 .. T-1 drawn with uniform [B] in [0, 1); float32 [B]."""
    t = (uniform.to(torch.float64) * schedule.num_train_steps).floor()
    return schedule.sigma(t).float()


def uniform_time_sigma(schedule: Schedule, uniform: Tensor) -> Tensor:
    """The noise level of a time drawn uniformly from t_min .. t_max, given uniform [B] in [0, 1); float32
    [B].
    """
    return schedule.sigma(
        schedule.t_min + (schedule.t_max - schedule.t_min) * uniform.to(torch.float64)
    ).float()


def stratified(uniform: Tensor, index: Tensor, count: int) -> Tensor:
    """Uniform numbers [B] spread evenly: number `index` of a batch of `count` falls into its own count-th of
    [0, 1).
    """
    return (index + uniform) / count
