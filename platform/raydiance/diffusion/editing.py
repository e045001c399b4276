"""Editing: keep what is known, and find the noise that a given sample comes from."""

from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from raydiance.diffusion.grids import Grid
from raydiance.diffusion.plan import Row, SamplingPlan
from raydiance.diffusion.preconditioning import NoisePredictor, expand
from raydiance.diffusion.randomness import Randomness, draw_noise
from raydiance.errors import ConfigError

__all__ = ["EditPath", "edit_friendly_path", "invert", "known_region", "replay"]


def known_region(predict_noise: NoisePredictor, known: Tensor, mask: Tensor) -> NoisePredictor:
    """Completion: where mask is 1 the predicted noise is the one that leads to `known`, (x - known) / sigma.

    known, mask: of the shape of x, or broadcast to it; mask within [0, 1]. Under a DDPM plan the known side
    then walks the exact reverse process of `known`, which has at every level the distribution that RePaint
    draws it from anew (Lugmayr et al. 2022, Eq. 8a); use `plans.repaint` to let the other side agree with it.
    Draws nothing, works with any plan.
    """

    def completed(x: Tensor, sigma: Tensor) -> Tensor:
        eps = predict_noise(x, sigma)
        return torch.lerp(eps, ((x - known) / expand(sigma, x).to(x.dtype)).to(eps.dtype), mask.to(eps.dtype))

    return completed


def invert(predict_noise: NoisePredictor, grid: Grid, x_0: Tensor, *, refinements: int = 0) -> Tensor:
    """The noise at grid.sigmas[0] from which DDIM on the same grid leads to x_0 [B, ...] (Song et al. 2021,
    section 4.3).

    Each step up takes the prediction at its lower end; `refinements` fixed-point iterations take it at its
    upper end, where the way down takes it, and make the round trip exact in the limit. The lowest step starts
    at the grid's last level > 0, where the data is given the prediction made there.
    """
    if refinements < 0:
        raise ConfigError(f"invert: need refinements >= 0, got {refinements}")
    x, levels = x_0, grid.sigmas[::-1]
    for low, high in pairwise(levels):
        start = _level(low if low > 0 else high, x)
        upper = x + (high - low) * predict_noise(x, start)
        for _ in range(refinements):
            upper = x + (high - low) * predict_noise(upper, _level(high, x))
        x = upper
    return x


class EditPath(NamedTuple):
    """A stochastic plan's way to a given sample: its first point, and what each row adds to its mean, [rows,
    B, ...].
    """

    start: Tensor
    added: Tensor


def edit_friendly_path(
    predict_noise: NoisePredictor, plan: SamplingPlan, x_0: Tensor, *, generator: Randomness
) -> EditPath:
    """A path of a DDPM or DDIM(eta > 0) plan that ends at x_0 exactly (Huberman-Spiegelglas et al. 2024,
    section 3).

    Its points are x_0 under noise drawn anew at each level, so that what the rows add carries the structure
    of x_0; replayed under another condition it gives x_0 edited. The last row, which draws no noise, adds
    what its mean misses.
    """
    levels = [*(row.sigma for row in plan.rows[1:]), 0.0]
    start = x = x_0 + plan.sigma_max * draw_noise(generator, x_0)
    added = list[Tensor]()
    for row, level in zip(plan.rows, levels):
        point = x_0 + level * draw_noise(generator, x_0) if level > 0 else x_0
        added.append(point - _mean(predict_noise, plan, row, x))
        x = point
    return EditPath(start, torch.stack(added))


def replay(predict_noise: NoisePredictor, plan: SamplingPlan, path: EditPath) -> Tensor:
    """Where the plan ends if its rows add what the path says, instead of fresh noise."""
    x = path.start
    for row, added in zip(plan.rows, path.added):
        x = _mean(predict_noise, plan, row, x) + added
    return x


def _mean(predict_noise: NoisePredictor, plan: SamplingPlan, row: Row, x: Tensor) -> Tensor:
    commit = row.commit
    if (
        commit is None
        or commit.x != 1
        or len(commit.history) != 1
        or row.query.noise != 0
        or row.keep != (0.0, 1.0)
    ):
        raise ConfigError(
            f"plan {plan.name}: each row must be one step x + b e + c z; use plans.ddpm or plans.ddim"
        )
    return x + commit.history[0] * predict_noise(x, _level(row.sigma, x))


def _level(sigma: float, like: Tensor) -> Tensor:
    dtype = torch.float64 if like.dtype == torch.float64 else torch.float32
    return torch.full(like.shape[:1], sigma, dtype=dtype, device=like.device)
