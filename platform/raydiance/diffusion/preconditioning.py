"""How a network of any kind becomes a noise predictor eps(x, sigma), and what it is trained towards.

Legend: F the raw network, called with c_in x and c_noise; eps = skip x + out F; with x = x_0 + sigma noise
the F that gives eps = noise is the target, to_x_0 x_0 + to_noise noise. D = x - sigma eps is the denoised
output. The six scalars of a kind of network are written out with their cancellations done on paper.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeAlias

import torch
from torch import Tensor

from raydiance.diffusion import schedules
from raydiance.diffusion.schedules import Schedule
from raydiance.errors import ConfigError

__all__ = [
    "EDM",
    "Clean",
    "Epsilon",
    "Flow",
    "Network",
    "NoisePredictor",
    "Preconditioning",
    "Scalars",
    "Velocity",
    "discrete_clean",
    "discrete_epsilon",
    "expand",
    "from_plain",
]


NoisePredictor: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""eps = predict_noise(x [B, ...], sigma [B]): a new tensor of the shape of x at each call, since it is
remembered.
"""


class Network(Protocol):
    """F(x [B, ...], noise embedding input [B], condition=...) -> tensor of the shape of x."""

    def __call__(self, x: Tensor, noise: Tensor, /, *, condition: Any = None) -> Tensor: ...


class Scalars(NamedTuple):
    """Per-item numbers [B] of a preconditioning at its noise levels."""

    c_in: Tensor
    c_noise: Tensor
    skip: Tensor
    out: Tensor
    to_x_0: Tensor
    to_noise: Tensor


def expand(values: Tensor, like: Tensor) -> Tensor:
    """Per-item values [B] as [B, 1, ...], to multiply a tensor [B, ...] of any dimension."""
    return values.view(-1, *(1 for _ in like.shape[1:]))


class Preconditioning(ABC):
    """A kind of network; its scalars are float32 at least, whatever the type of x."""

    @abstractmethod
    def scalars(self, sigma: Tensor) -> Scalars:
        """The six scalars at noise levels sigma [B]."""

    def noise_predictor(self, network: Network, condition: Any = None) -> NoisePredictor:
        """predict_noise(x [B, ...], sigma [B]) -> eps, of the type of x."""

        def predict_noise(x: Tensor, sigma: Tensor) -> Tensor:
            s = self.scalars(sigma)
            raw = network((expand(s.c_in, x) * x).to(x.dtype), s.c_noise, condition=condition)
            return (expand(s.skip, x) * x + expand(s.out, x) * raw).to(x.dtype)

        return predict_noise

    def denoise(self, network: Network, x: Tensor, sigma: Tensor, condition: Any = None) -> Tensor:
        """D(x; sigma), the expected clean data [B, ...]."""
        return x - expand(sigma, x) * self.noise_predictor(network, condition)(x, sigma)

    def loss(
        self,
        network: Network,
        x_0: Tensor,
        sigma: Tensor,
        noise: Tensor,
        condition: Any = None,
        *,
        weight: Callable[[Tensor], Tensor] | None = None,
        error: Callable[[Tensor, Tensor], Tensor] | None = None,
    ) -> Tensor:
        """Mean squared error of each item [B]: of F against its target, or, with a weight(sigma), weight |D -
        x_0|^2. error(F - target [B, ...], sigma) -> [B] in place of the mean square over all numbers.
        """
        found, _ = self.loss_and_denoised(network, x_0, sigma, noise, condition, error=error)
        return found if weight is None else weight(sigma) * (sigma * self.scalars(sigma).out).square() * found

    def loss_and_denoised(
        self,
        network: Network,
        x_0: Tensor,
        sigma: Tensor,
        noise: Tensor,
        condition: Any = None,
        *,
        error: Callable[[Tensor, Tensor], Tensor] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The plain loss of each item [B], and the estimate D of x_0 [B, ...] that the same call gives."""
        s = self.scalars(sigma)
        x = x_0 + expand(sigma, x_0) * noise
        raw = network((expand(s.c_in, x) * x).to(x.dtype), s.c_noise, condition=condition)
        target = expand(s.to_x_0, x) * x_0 + expand(s.to_noise, x) * noise
        eps = expand(s.skip, x) * x + expand(s.out, x) * raw
        found = error(raw - target, sigma) if error else (raw - target).square().flatten(1).mean(1)
        return found, x - expand(sigma, x) * eps


@dataclass(frozen=True)
class EDM(Preconditioning):
    """Inputs and targets of the network have unit variance at every sigma (Karras et al. 2022, Table 1).

    sigma_data: standard deviation of the data. The plain loss is the weighted one of their Eq. 8.
    """

    sigma_data: float = 0.5

    def __post_init__(self) -> None:
        if not self.sigma_data > 0:
            raise ConfigError(f"EDM: need sigma_data > 0, got {self.sigma_data}")

    def scalars(self, sigma: Tensor) -> Scalars:
        data = self.sigma_data
        c_in = (sigma.square() + data**2).rsqrt()
        return Scalars(
            c_in, sigma.log() / 4, sigma * c_in.square(), -data * c_in, sigma / data * c_in, -data * c_in
        )


@dataclass(frozen=True)
class Epsilon(Preconditioning):
    """F is the noise, asked at x_vp = x / sqrt(1 + sigma^2) and time t of the schedule (Ho et al. 2020).

    time_scale: what the network is told is t times this; 1 for networks that count training steps.
    """

    schedule: Schedule
    time_scale: float = 1.0

    def scalars(self, sigma: Tensor) -> Scalars:
        zero, one = torch.zeros_like(sigma), torch.ones_like(sigma)
        return Scalars(_alpha(sigma), self.time_scale * _time(self.schedule, sigma), zero, one, zero, one)


@dataclass(frozen=True)
class Clean(Preconditioning):
    """F is x_0, asked at x_vp and time t; time_scale as Epsilon's."""

    schedule: Schedule
    time_scale: float = 1.0

    def scalars(self, sigma: Tensor) -> Scalars:
        zero, one = torch.zeros_like(sigma), torch.ones_like(sigma)
        time = self.time_scale * _time(self.schedule, sigma)
        return Scalars(_alpha(sigma), time, 1 / sigma, -1 / sigma, one, zero)


@dataclass(frozen=True)
class Velocity(Preconditioning):
    """F is v = alpha noise - sqrt(1 - alpha^2) x_0, asked at x_vp and time t (Salimans & Ho 2022)."""

    schedule: Schedule

    def scalars(self, sigma: Tensor) -> Scalars:
        alpha = _alpha(sigma)
        return Scalars(
            alpha, _time(self.schedule, sigma), sigma * alpha.square(), alpha, -sigma * alpha, alpha
        )


@dataclass(frozen=True)
class Flow(Preconditioning):
    """F is noise - x_0, asked at x_t = (1 - t) x_0 + t noise and t = sigma / (1 + sigma) (Liu et al. 2023)."""

    def scalars(self, sigma: Tensor) -> Scalars:
        one, rest = torch.ones_like(sigma), 1 / (1 + sigma)  # rest = 1 - t
        return Scalars(rest, sigma * rest, rest, rest, -one, one)


def discrete_epsilon(schedule: str, num_train_steps: int = 1000) -> Epsilon:
    """The noise at the steps of a discrete schedule, by its name, told to the network as a number of 0 .. 2."""
    return Epsilon(schedules.named(schedule, num_train_steps), 2 / num_train_steps)


def discrete_clean(schedule: str, num_train_steps: int = 1000) -> Clean:
    """x_0 at the steps of a discrete schedule, by its name, told to the network as a number of 0 .. 2."""
    return Clean(schedules.named(schedule, num_train_steps), 2 / num_train_steps)


def from_plain(plain: Mapping[str, Any]) -> Preconditioning:
    """What a denoiser's spec.json says of its inputs and outputs.

    {"sigma_data"} is EDM's, {"schedule", "num_train_steps"} the noise at the steps of that schedule, or with
    {"predicts": "clean"} x_0. Other keys are not read.
    """
    if "sigma_data" in plain:
        return EDM(float(plain["sigma_data"]))
    if "schedule" in plain:
        make = discrete_clean if plain.get("predicts") == "clean" else discrete_epsilon
        return make(str(plain["schedule"]), int(plain["num_train_steps"]))
    raise ConfigError(f"a denoiser needs sigma_data, or schedule and num_train_steps, got {sorted(plain)}")


def _alpha(sigma: Tensor) -> Tensor:
    return (1 + sigma.square()).rsqrt()


def _time(schedule: Schedule, sigma: Tensor) -> Tensor:
    return schedule.time(sigma).to(sigma.dtype)
