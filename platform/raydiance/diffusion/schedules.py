"""Noise schedules: how the noise level sigma grows with time t.

Legend: alpha_bar(t) is the share of signal variance of a variance-preserving process (DDPM's alphas_cumprod);
sigma = sqrt((1 - alpha_bar) / alpha_bar) its noise level in the variance-exploding coordinate x = x_vp /
sqrt(alpha_bar), in which everything of this package works. The log-SNR is -2 ln sigma. Tables are float64.
"""

import math
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from raydiance.errors import ConfigError

__all__ = [
    "AngularSchedule",
    "DiscreteSchedule",
    "PowerSchedule",
    "Schedule",
    "cosine",
    "edm",
    "from_alphas_cumprod",
    "linear",
    "log_snr",
    "named",
    "quadratic",
]


class Schedule(Protocol):
    """A one-to-one map between time t and noise level sigma; both directions take and return tensors of any
    shape.
    """

    @property
    def name(self) -> str: ...
    @property
    def t_max(self) -> float:
        """Where sampling starts: the noisiest trained time."""

    @property
    def t_min(self) -> float:
        """The cleanest trained time."""

    @property
    def t_data(self) -> float:
        """The time at which sigma is 0."""

    @property
    def sigma_max(self) -> float: ...
    @property
    def sigma_min(self) -> float: ...

    def sigma(self, t: Tensor) -> Tensor:
        """Noise levels at times t."""

    def time(self, sigma: Tensor) -> Tensor:
        """Times at noise levels sigma."""


@dataclass(frozen=True, eq=False)
class DiscreteSchedule:
    """A schedule of T training steps t = 0 .. T-1, and t = -1 for clean data; between steps ln alpha_bar is
    linear in t.

    alphas_cumprod: float64 [T], strictly decreasing within (0, 1).
    """

    name: str
    alphas_cumprod: Tensor
    _neg_log: dict[torch.device, Tensor] = field(init=False, repr=False)  # see _table

    def __post_init__(self) -> None:
        a = self.alphas_cumprod
        if a.dtype != torch.float64 or a.ndim != 1 or len(a) == 0:
            raise ConfigError(f"alphas_cumprod: need a float64 vector, got {a.dtype} {list(a.shape)}")
        if not bool((a > 0).all()):
            raise ConfigError(
                f"alphas_cumprod: the least value is {float(a.min())}, so the signal is gone (zero SNR) and "
                "a noise prediction says nothing about x_0; keep alpha_bar > 0, e.g. drop the last step"
            )
        padded = torch.cat([torch.zeros(1, dtype=torch.float64), -a.log()])
        if not bool((padded.diff() > 0).all()):
            raise ConfigError("alphas_cumprod: need strictly decreasing values below 1")
        object.__setattr__(self, "_neg_log", {padded.device: padded})

    @property
    def num_train_steps(self) -> int:
        return len(self.alphas_cumprod)

    @property
    def t_max(self) -> float:
        return float(self.num_train_steps - 1)

    @property
    def t_min(self) -> float:
        return 0.0

    @property
    def t_data(self) -> float:
        return -1.0

    @property
    def sigma_max(self) -> float:
        return float(self.sigma(torch.tensor(self.t_max, dtype=torch.float64)))

    @property
    def sigma_min(self) -> float:
        return float(self.sigma(torch.tensor(0.0, dtype=torch.float64)))

    def _table(self, device: torch.device) -> Tensor:
        """-ln alpha_bar at t = -1, 0 .. T-1. It is kept on each device: a copy has no place in a CUDA graph."""
        if device not in self._neg_log:
            self._neg_log[device] = self._neg_log[self.alphas_cumprod.device].to(device)
        return self._neg_log[device]

    def sigma(self, t: Tensor) -> Tensor:
        """sigma = sqrt(1 / alpha_bar - 1) at real times within [-1, T-1] (clamped)."""
        table = self._table(t.device)
        u = t.to(torch.float64).clamp(-1, self.t_max) + 1
        i = u.floor().long().clamp(max=self.num_train_steps - 1)
        neg_log = torch.lerp(table[i], table[i + 1], u - i)
        return torch.expm1(neg_log).sqrt()

    def time(self, sigma: Tensor) -> Tensor:
        """Real time of each noise level, within [-1, T-1] (clamped)."""
        table = self._table(sigma.device)
        neg_log = torch.log1p(sigma.to(torch.float64).square()).clamp(max=table[-1])
        i = torch.searchsorted(table, neg_log, right=True).clamp(1, self.num_train_steps) - 1
        return i - 1 + (neg_log - table[i]) / (table[i + 1] - table[i])


@dataclass(frozen=True)
class PowerSchedule:
    """Time is sigma^(1/rho), scaled so that t = 1 at sigma_max and t = 0 at clean data (Karras et al. 2022,
    Eq. 5).
    """

    name: str
    sigma_min: float
    sigma_max: float
    rho: float

    def __post_init__(self) -> None:
        if not (0 < self.sigma_min < self.sigma_max < math.inf and self.rho > 0):
            raise ConfigError(
                f"{self.name}: need 0 < sigma_min < sigma_max and rho > 0, "
                f"got {self.sigma_min}, {self.sigma_max}, {self.rho}"
            )

    @property
    def t_max(self) -> float:
        return 1.0

    @property
    def t_min(self) -> float:
        return float((self.sigma_min / self.sigma_max) ** (1 / self.rho))

    @property
    def t_data(self) -> float:
        return 0.0

    def sigma(self, t: Tensor) -> Tensor:
        """sigma = sigma_max t^rho."""
        return self.sigma_max * t.to(torch.float64) ** self.rho

    def time(self, sigma: Tensor) -> Tensor:
        """t = (sigma / sigma_max)^(1/rho)."""
        return (sigma.to(torch.float64) / self.sigma_max) ** (1 / self.rho)


@dataclass(frozen=True)
class AngularSchedule:
    """sigma = tan(a t + b), t in [0, 1]: a continuous cosine schedule whose log-SNR runs between two
    bounds.
    """

    name: str
    a: float
    b: float
    t_max: float = 1.0
    t_min: float = 0.0

    @property
    def t_data(self) -> float:
        return -self.b / self.a

    @property
    def sigma_max(self) -> float:
        return math.tan(self.a + self.b)

    @property
    def sigma_min(self) -> float:
        return math.tan(self.b)

    def sigma(self, t: Tensor) -> Tensor:
        """sigma = tan(a t + b)."""
        return torch.tan(self.a * t.to(torch.float64) + self.b)

    def time(self, sigma: Tensor) -> Tensor:
        """t = (arctan sigma - b) / a."""
        return (torch.atan(sigma.to(torch.float64)) - self.b) / self.a


def linear(num_train_steps: int = 1000, beta_min: float = 1e-4, beta_max: float = 0.02) -> DiscreteSchedule:
    """beta_t linear in t (Ho et al. 2020, section 4)."""
    _check_betas("linear", num_train_steps, beta_min, beta_max)
    betas = torch.linspace(beta_min, beta_max, num_train_steps, dtype=torch.float64)
    return DiscreteSchedule("linear", (1 - betas).cumprod(0))


def quadratic(
    num_train_steps: int = 1000, beta_min: float = 1e-4, beta_max: float = 0.02
) -> DiscreteSchedule:
    """sqrt(beta_t) linear in t, also called "scaled linear" (Rombach et al. 2022)."""
    _check_betas("quadratic", num_train_steps, beta_min, beta_max)
    roots = torch.linspace(math.sqrt(beta_min), math.sqrt(beta_max), num_train_steps, dtype=torch.float64)
    return DiscreteSchedule("quadratic", (1 - roots.square()).cumprod(0))


def cosine(num_train_steps: int = 1000, offset: float = 0.008, beta_cap: float = 0.999) -> DiscreteSchedule:
    """alpha_bar is a squared cosine of t, each beta capped (Nichol & Dhariwal 2021, Eq. 17)."""
    if num_train_steps < 1 or not 0 < beta_cap < 1:
        raise ConfigError(
            f"cosine: need num_train_steps >= 1 and 0 < beta_cap < 1 (1 is zero SNR), "
            f"got {num_train_steps}, {beta_cap}"
        )
    u = torch.arange(num_train_steps + 1, dtype=torch.float64) / num_train_steps
    f = torch.cos((u + offset) / (1 + offset) * math.pi / 2).square()
    betas = (1 - f[1:] / f[:-1]).clamp(max=beta_cap)
    return DiscreteSchedule("cosine", (1 - betas).cumprod(0))


def from_alphas_cumprod(alphas_cumprod: Tensor, name: str = "custom") -> DiscreteSchedule:
    """A schedule from its table alpha_bar [T]. Raises ConfigError if it does not decrease or reaches zero
    SNR.
    """
    return DiscreteSchedule(name, alphas_cumprod.to("cpu", torch.float64))


def named(name: str, num_train_steps: int = 1000) -> DiscreteSchedule:
    """The linear, quadratic or cosine schedule of so many steps, by its name."""
    known = {each.__name__: each for each in (linear, quadratic, cosine)}
    if name not in known:
        raise ConfigError(f"schedule {name!r}: there is {', '.join(known)}")
    return known[name](num_train_steps)


def edm(sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0) -> PowerSchedule:
    """The continuous noise levels of Karras et al. 2022; time is sigma^(1/rho), so uniform time is their grid
    (Eq. 5).
    """
    return PowerSchedule("edm", sigma_min, sigma_max, rho)


def log_snr(minimum: float = -20.0, maximum: float = 20.0) -> AngularSchedule:
    """Continuous cosine schedule with log-SNR = -2 ln tan(a t + b) between two bounds (Watson et al. 2022,
    3DiM).
    """
    if not -math.inf < minimum < maximum < math.inf:
        raise ConfigError(f"log_snr: need finite minimum < maximum, got {minimum} and {maximum}")
    b = math.atan(math.exp(-maximum / 2))
    return AngularSchedule("log_snr", math.atan(math.exp(-minimum / 2)) - b, b)


def _check_betas(name: str, num_train_steps: int, beta_min: float, beta_max: float) -> None:
    if num_train_steps < 1 or not 0 < beta_min <= beta_max < 1:
        raise ConfigError(
            f"{name}: need num_train_steps >= 1 and 0 < beta_min <= beta_max < 1, "
            f"got {num_train_steps}, {beta_min}, {beta_max}"
        )
