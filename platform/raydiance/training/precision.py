"""In which type networks compute. Weights, optimisers, preconditioning and rendering stay in float32."""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal

import torch

__all__ = ["Precision", "PrecisionName", "choose_precision", "exact"]

PrecisionName = Literal["auto", "float32", "bfloat16"]


@dataclass(frozen=True)
class Precision:
    """The type of convolutions and matrix products on a device."""

    device_type: str
    dtype: torch.dtype

    def applied(self) -> AbstractContextManager[None]:
        """Inside, networks compute in this type."""
        return torch.autocast(self.device_type, torch.bfloat16, enabled=self.dtype is torch.bfloat16)


def choose_precision(name: PrecisionName, device: torch.device) -> Precision:
    """ "auto" is bfloat16 on a GPU that has it, float32 elsewhere."""
    if name == "auto":
        name = "bfloat16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "float32"
    return Precision(device.type, torch.bfloat16 if name == "bfloat16" else torch.float32)


def exact(device: torch.device) -> AbstractContextManager[None]:
    """Inside, everything is computed in the type it has, whatever stands outside."""
    return torch.autocast(device.type, enabled=False)
