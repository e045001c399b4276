"""Moving averages whose width can be chosen when the training is over (Karras et al. 2024, "EDM2", section 3).

The average with exponent gamma weighs the weights of step t by t^gamma, so its width is the same share of the
training at every step: sigma_rel, the standard deviation of that profile over its length. Two such averages,
kept at several steps (snapshots), span others: the profile of any width is fitted by theirs, by least squares.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from raydiance.training.distributed import like_shards_of, whole

__all__ = ["PowerAverages", "Snapshot", "combine", "gamma_of", "width_of"]


def width_of(gamma: float) -> float:
    """sigma_rel = sqrt((gamma + 1) / ((gamma + 2)^2 (gamma + 3))). Ibid., Eq. 3."""
    return float(((gamma + 1) / ((gamma + 2) ** 2 * (gamma + 3))) ** 0.5)


def gamma_of(width: float) -> float:
    """The exponent whose profile has this width (0 < sigma_rel < 0.2887). Ibid., Algorithm 2."""
    if not 0 < width < width_of(0.0):
        raise ValueError(f"a moving average needs a width between 0 and {width_of(0.0):.4f}, got {width}")
    roots = np.roots([1.0, 7.0, 16.0 - width**-2, 12.0 - width**-2])
    return float(roots.real.max())


class PowerAverages:
    """Averages of a model's parameters at several widths at once; buffers are copied as they are."""

    def __init__(self, model: nn.Module, widths: Sequence[float] = (0.05, 0.10)) -> None:
        self.widths = tuple(widths)
        self.gammas = tuple(gamma_of(width) for width in widths)
        self.num_updates = 0
        self.shadows = [
            {name: value.detach().clone() for name, value in model.state_dict().items()} for _ in widths
        ]

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take in the weights of one more step: beta = (1 - 1 / t)^(gamma + 1). Ibid., Eq. 127."""
        self.num_updates += 1
        for gamma, shadow in zip(self.gammas, self.shadows):
            beta = (1 - 1 / self.num_updates) ** (gamma + 1)
            for name, value in model.state_dict().items():
                if value.is_floating_point():
                    shadow[name].lerp_(value, 1 - beta)
                else:
                    shadow[name].copy_(value)

    def load(self, tensors: Mapping[str, Tensor], num_updates: int) -> None:
        """Go on from saved averages: "<index of the width>/<name>"."""
        for k, shadow in enumerate(self.shadows):
            for name, value in shadow.items():
                value.copy_(like_shards_of(value, tensors[f"{k}/{name}"]))
        self.num_updates = num_updates

    def snapshots(self) -> list["Snapshot"]:
        """The averages as they are now, one for each width."""
        return [
            Snapshot(
                gamma, self.num_updates, {name: value.cpu().clone() for name, value in whole(shadow).items()}
            )
            for gamma, shadow in zip(self.gammas, self.shadows)
        ]


@dataclass(frozen=True, eq=False)
class Snapshot:
    """An average as it was after a number of steps."""

    gamma: float
    step: int
    weights: Mapping[str, Tensor]


def combine(snapshots: Sequence[Snapshot], width: float, step: int | None = None) -> dict[str, Tensor]:
    """The weights averaged with this width up to `step` (None: the last there is). Ibid., Algorithm 3.

    Raises ValueError without snapshots up to that step.
    """
    end = step or max((each.step for each in snapshots), default=0)
    used = [each for each in snapshots if each.step <= end]
    if not used:
        raise ValueError(f"averages up to step {end} need snapshots up to there, got none")
    gammas, steps = np.array([each.gamma for each in used]), np.array([float(each.step) for each in used])
    target = gamma_of(width)
    products = _inner(gammas[:, None], steps[:, None], gammas[None], steps[None])
    aims = _inner(gammas, steps, np.full(len(used), target), np.full(len(used), float(end)))
    shares = np.linalg.lstsq(products, aims, rcond=None)[0]
    newest = max(used, key=lambda each: each.step)
    combined = {}
    for name, like in newest.weights.items():
        if like.is_floating_point():
            parts = (float(share) * each.weights[name].double() for share, each in zip(shares, used))
            combined[name] = sum(parts, torch.zeros_like(like, dtype=torch.float64)).to(like.dtype)
        else:
            combined[name] = like.clone()
    return combined


def _inner(
    gamma_a: NDArray[np.float64],
    step_a: NDArray[np.float64],
    gamma_b: NDArray[np.float64],
    step_b: NDArray[np.float64],
) -> NDArray[np.float64]:
    """The inner product of two profiles p(t) = (gamma + 1) t^gamma / T^(gamma + 1) on [0, T]. Ibid., Eq. 162."""
    least = np.minimum(step_a, step_b)
    a, b = (least / step_a) ** gamma_a, (least / step_b) ** gamma_b
    product: NDArray[np.float64] = (
        (gamma_a + 1) * (gamma_b + 1) * a * b * least / (step_a * step_b * (gamma_a + gamma_b + 1))
    )
    return product
