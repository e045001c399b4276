"""Learning rates by layer: Adam moves every weight by about the same amount, whatever the layer."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

__all__ = ["rates_by_fan_in"]


def rates_by_fan_in(
    model: nn.Module, reference: int, *, factors: Mapping[str, float] | None = None
) -> Sequence[Mapping[str, Any]]:
    """Groups of parameters by their factor on the learning rate: min(1, reference / fan-in), 1 for a bias.

    What a layer moves by at a step of Adam grows with its fan-in; so scaled, wide layers stay calm at
    a rate that lets narrow ones move fast (muP, Yang et al. 2022). factors: by name, in place of that.
    """
    groups: dict[float, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        fan_in = parameter[0].numel() if parameter.ndim > 1 else 1
        factor = (factors or {}).get(name, min(1.0, reference / fan_in))
        groups.setdefault(factor, []).append(parameter)
    return [{"params": parameters, "factor": factor} for factor, parameters in groups.items()]
