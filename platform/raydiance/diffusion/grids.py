"""Grids: at which noise levels a sampler with S steps stops on its way from noise to data.

Each function takes a schedule and S >= 1 and gives exactly S steps: S + 1 noise levels, strictly descending,
the last one 0. The levels and "the next level" come from this one list; nothing recomputes them.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from raydiance.diffusion.schedules import DiscreteSchedule, Schedule
from raydiance.errors import ConfigError

__all__ = [
    "Grid",
    "asinh",
    "explicit",
    "from_times",
    "karras",
    "leading",
    "linspace",
    "log_snr",
    "quadratic",
    "sigmoid",
    "trailing",
]


@dataclass(frozen=True)
class Grid:
    """Noise levels, strictly descending, S + 1 of them for S steps; the last may be 0."""

    name: str
    sigmas: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.sigmas) < 2:
            raise ConfigError(
                f"grid {self.name}: need at least one step (two noise levels), got {self.sigmas}"
            )
        if not all(math.isfinite(sigma) and sigma >= 0 for sigma in self.sigmas):
            raise ConfigError(f"grid {self.name}: noise levels must be finite and >= 0, got {self.sigmas}")
        for a, b in pairwise(self.sigmas):
            if not a > b:
                raise ConfigError(f"grid {self.name}: noise levels must descend, but {a} is followed by {b}")

    @property
    def num_steps(self) -> int:
        return len(self.sigmas) - 1

    @property
    def steps(self) -> Iterator[tuple[float, float]]:
        """Pairs (sigma, next sigma)."""
        return pairwise(self.sigmas)


def leading(schedule: DiscreteSchedule, num_steps: int) -> Grid:
    """t = 0, d, 2d .. with d = T // S: starts below T - 1 (DDIM's and PNDM's own subsequence)."""
    if not isinstance(schedule, DiscreteSchedule):
        raise ConfigError(
            f"grid leading: counts training steps, and schedule {schedule.name} has none; use trailing"
        )
    if num_steps > schedule.num_train_steps:
        raise ConfigError(
            f"grid leading: {num_steps} steps, but the schedule has only {schedule.num_train_steps}"
        )
    _check(num_steps)
    stride = schedule.num_train_steps // num_steps
    return from_times(schedule, torch.arange(num_steps - 1, -1, -1) * stride, "leading")


def trailing(schedule: Schedule, num_steps: int) -> Grid:
    """Equal steps of time from t_max all the way to clean data (real-valued t, so every step has the same
    length).
    """
    i = _ramp(num_steps, num_steps)
    return from_times(schedule, schedule.t_max - i * (schedule.t_max - schedule.t_data), "trailing")


def linspace(schedule: Schedule, num_steps: int) -> Grid:
    """Equal steps of time from t_max to t_min, then one hop to clean data."""
    return _spaced(schedule, 1 - _ramp(num_steps), "linspace")


def quadratic(schedule: Schedule, num_steps: int, power: float = 2.0) -> Grid:
    """Steps of time that shrink towards the data: t = t_min + (t_max - t_min) (1 - i / (S - 1))^power, then
    clean data.
    """
    if power <= 0:
        raise ConfigError(f"grid quadratic: need power > 0, got {power}")
    return _spaced(
        schedule, (1 - _ramp(num_steps)) ** power, "quadratic" if power == 2 else f"power{power:g}"
    )


def sigmoid(schedule: Schedule, num_steps: int, steepness: float = 3.0) -> Grid:
    """Steps of time along a logistic curve: short at both ends, long in the middle."""
    if steepness <= 0:
        raise ConfigError(f"grid sigmoid: need steepness > 0, got {steepness}")
    curve = torch.tanh(steepness / 2 * (1 - 2 * _ramp(num_steps))) / math.tanh(steepness / 2)
    return _spaced(schedule, (1 + curve) / 2, "sigmoid")


def karras(schedule: Schedule, num_steps: int, rho: float = 7.0) -> Grid:
    """Equal steps of sigma^(1/rho) from sigma_max to sigma_min, then 0 (Karras et al. 2022, Eq. 5)."""
    if rho <= 0:
        raise ConfigError(f"grid karras: need rho > 0, got {rho}")
    high, low = schedule.sigma_max ** (1 / rho), schedule.sigma_min ** (1 / rho)
    sigmas = (high + _ramp(num_steps) * (low - high)) ** rho
    return explicit(sigmas.tolist(), "karras" if rho == 7 else f"karras{rho:g}")


def log_snr(schedule: Schedule, num_steps: int) -> Grid:
    """Equal steps of ln sigma from sigma_max to sigma_min, then 0 (Lu et al. 2022)."""
    high, low = math.log(schedule.sigma_max), math.log(schedule.sigma_min)
    return explicit((high + _ramp(num_steps) * (low - high)).exp().tolist(), "log_snr")


def asinh(schedule: Schedule, num_steps: int, scale: float = 0.1) -> Grid:
    """Equal steps of asinh(sigma / scale) from sigma_max all the way to 0: those of ln sigma far from the
    data, of sigma near it.
    """
    if scale <= 0:
        raise ConfigError(f"grid asinh: need scale > 0, got {scale}")
    high = math.asinh(schedule.sigma_max / scale)
    sigmas = scale * torch.sinh(high * (1 - _ramp(num_steps, num_steps)))
    return explicit(sigmas.tolist(), "asinh" if scale == 0.1 else f"asinh{scale:g}")


def from_times(schedule: Schedule, times: Tensor, name: str = "times") -> Grid:
    """The noise levels at descending times [S], then 0."""
    return explicit(schedule.sigma(times.to(torch.float64)).tolist(), name)


def explicit(sigmas: Sequence[float], name: str = "explicit") -> Grid:
    """The noise levels as given [S], all > 0 and descending, then 0."""
    return Grid(name, (*(float(sigma) for sigma in sigmas), 0.0))


def _spaced(schedule: Schedule, share: Tensor, name: str) -> Grid:
    return from_times(schedule, schedule.t_min + (schedule.t_max - schedule.t_min) * share, name)


def _ramp(num_steps: int, intervals: int | None = None) -> Tensor:
    _check(num_steps)
    return torch.arange(num_steps, dtype=torch.float64) / (intervals or max(num_steps - 1, 1))


def _check(num_steps: int) -> None:
    if num_steps < 1:
        raise ConfigError(f"grid: need num_steps >= 1, got {num_steps}")
