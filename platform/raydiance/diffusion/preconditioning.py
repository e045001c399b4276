"""How a network of any kind becomes a noise predictor eps(x, sigma).

Legend: F the raw network, D its denoised output D = c_skip x + c_out F(c_in x, c_noise), eps = (x - D) /
sigma.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from raydiance.errors import ConfigError

__all__ = ["EDM", "Network", "expand"]


class Network(Protocol):
    """F(x [B, ...], noise embedding input [B], condition=...) -> tensor of the shape of x."""

    def __call__(self, x: Tensor, noise: Tensor, /, *, condition: Any = None) -> Tensor: ...


def expand(values: Tensor, like: Tensor) -> Tensor:
    """Per-item values [B] as [B, 1, ...], to multiply a tensor [B, ...] of any dimension."""
    return values.view(-1, *(1 for _ in like.shape[1:]))


@dataclass(frozen=True)
class EDM:
    """Preconditioning of Karras et al. 2022, Table 1: inputs and targets of the network have unit variance at
    every sigma.

    sigma_data: standard deviation of the data.
    """

    sigma_data: float = 0.5

    def __post_init__(self) -> None:
        if not self.sigma_data > 0:
            raise ConfigError(f"EDM: need sigma_data > 0, got {self.sigma_data}")

    def noise_predictor(self, network: Network, condition: Any = None) -> Callable[[Tensor, Tensor], Tensor]:
        """eps(x, sigma) = sigma / (sigma^2 + sigma_data^2) x - sigma_data / sqrt(sigma^2 + sigma_data^2) F.

        This is (x - D) / sigma with the cancellation done on paper. Scalars are float32 at least, the result
        is as x.
        """

        def predict_noise(x: Tensor, sigma: Tensor) -> Tensor:
            raw = self._raw(network, x, sigma, condition)
            s = expand(sigma, x)
            total = s.square() + self.sigma_data**2
            return (s / total * x - self.sigma_data * total.rsqrt() * raw).to(x.dtype)

        return predict_noise

    def denoise(self, network: Network, x: Tensor, sigma: Tensor, condition: Any = None) -> Tensor:
        """D(x; sigma), the expected clean data [B, ...] (Eq. 7)."""
        raw = self._raw(network, x, sigma, condition)
        s = expand(sigma, x)
        total = s.square() + self.sigma_data**2
        return self.sigma_data**2 / total * x + s * self.sigma_data * total.rsqrt() * raw

    def loss(
        self, network: Network, x_0: Tensor, sigma: Tensor, noise: Tensor, condition: Any = None
    ) -> Tensor:
        """Mean of lambda(sigma) |D(x_0 + sigma noise) - x_0|^2 over each item, [B] (Eq. 8).

        With lambda = 1 / c_out^2 this is the squared error of F against its unit-variance target, and so it
        is computed.
        """
        s = expand(sigma, x_0)
        x = x_0 + s * noise
        raw = self._raw(network, x, sigma, condition)
        total = s.square() + self.sigma_data**2
        # (x_0 - c_skip x) / c_out with x = x_0 + sigma noise
        target = (s / self.sigma_data * x_0 - self.sigma_data * noise) * total.rsqrt()
        return (raw - target).square().flatten(1).mean(1)

    def _raw(self, network: Network, x: Tensor, sigma: Tensor, condition: Any) -> Tensor:
        c_in = (sigma.square() + self.sigma_data**2).rsqrt()
        return network((expand(c_in, x) * x).to(x.dtype), sigma.log() / 4, condition=condition)
