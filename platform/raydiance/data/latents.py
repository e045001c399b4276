"""Latents on a common scale: diffusion needs data of about unit size, and autodecoded ones have outliers.

"AutoDecoding Latent 3D Diffusion Models" (Ntavelis et al. 2023) takes the median and 0.7413 times the
distance between the quartiles, which for a normal distribution are its mean and standard deviation.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from raydiance.errors import DataError

__all__ = ["RobustStatistics", "StatisticsMode"]

StatisticsMode = Literal["robust", "moments"]
NORMAL_IQR = 0.7413


@dataclass(frozen=True)
class RobustStatistics:
    """Center and scale of latents, each [C] (per channel) or [1] (global), float32."""

    center: Tensor
    scale: Tensor

    @classmethod
    def fit(
        cls, latents: Tensor, mode: StatisticsMode = "robust", *, per_channel: bool = True
    ) -> "RobustStatistics":
        """Statistics of latents [N, C, *]: median and 0.7413 IQR ("robust"), or mean and deviation.

        Raises DataError if a channel does not vary.
        """
        channels = latents.shape[1] if per_channel else 1
        values = latents.double().transpose(0, 1).reshape(channels, -1)
        if mode == "robust":
            # One sorted row gives the three quartiles; torch.quantile refuses more than 2^24 values.
            ordered = values.sort(dim=1).values
            q_1, center, q_3 = (_quantile(ordered, share) for share in (0.25, 0.5, 0.75))
            scale = NORMAL_IQR * (q_3 - q_1)
        else:
            center, scale = values.mean(dim=1), values.std(dim=1)
        flat = (scale <= 0).nonzero().flatten().tolist()
        if flat:
            raise DataError(
                f"latents {list(latents.shape)}: channels {flat} do not vary, so they have no scale; train "
                "the autodecoder longer or give it fewer latent channels"
            )
        return cls(center.float(), scale.float())

    def normalise(self, latents: Tensor) -> Tensor:
        """(latents - center) / scale, [B, C, *]."""
        return (latents - self._along(self.center, latents)) / self._along(self.scale, latents)

    def denormalise(self, latents: Tensor) -> Tensor:
        """The inverse of normalise."""
        return latents * self._along(self.scale, latents) + self._along(self.center, latents)

    def to(self, device: torch.device | str) -> "RobustStatistics":
        """The same numbers on another device."""
        return RobustStatistics(self.center.to(device), self.scale.to(device))

    def save(self, path: Path) -> None:
        """Write "center" and "scale" as safetensors."""
        save_file({"center": self.center.cpu(), "scale": self.scale.cpu()}, path)

    @classmethod
    def load(cls, path: Path) -> "RobustStatistics":
        """Read "center" and "scale" from a safetensors file, which may hold more."""
        tensors = load_file(path)
        return cls(tensors["center"], tensors["scale"])

    def _along(self, value: Tensor, latents: Tensor) -> Tensor:
        return value.reshape(1, -1, *(1,) * (latents.ndim - 2))


def _quantile(ordered: Tensor, share: float) -> Tensor:
    """The quantile of each sorted row, linear between neighbours."""
    place = share * (ordered.shape[1] - 1)
    low = int(place)
    high = min(low + 1, ordered.shape[1] - 1)
    return torch.lerp(ordered[:, low], ordered[:, high], place - low)
