"""One-step plans with and without fresh noise: DDIM and DDPM.

With s the current and s' the next noise level, a step that draws noise of standard deviation tilde < s' is
x' = x + (sqrt(s'^2 - tilde^2) - s) e + tilde z: what noise is to remain beside the fresh one points along e.
"""

import math
from itertools import pairwise
from typing import Literal

from raydiance.diffusion.drafting import Draft, X, Z, finish
from raydiance.diffusion.grids import Grid
from raydiance.diffusion.plan import SamplingPlan
from raydiance.diffusion.schedules import Schedule
from raydiance.errors import ConfigError

__all__ = ["ddim", "ddpm", "repaint"]


def ddim(schedule: Schedule, grid: Grid, *, eta: float = 0.0) -> SamplingPlan:
    """DDIM (Song et al. 2021, Eq. 12 and 16): eta = 0 is deterministic, eta = 1 is DDPM with the small
    variance. NFE = S.
    """
    if not 0 <= eta <= 1:
        raise ConfigError(f"ddim: need 0 <= eta <= 1, got {eta}")
    draft = Draft()
    for s, s_next in grid.steps:
        e = draft.call(s)
        tilde = eta * _posterior_std(s, s_next)
        draft.commit(X + (math.sqrt(s_next**2 - tilde**2) - s) * e + tilde * Z)
    return finish(draft, "ddim" if eta == 0 else f"ddim-eta{eta:g}", grid, 1)


def ddpm(schedule: Schedule, grid: Grid, *, variance: Literal["small", "large"] = "small") -> SamplingPlan:
    """Ancestral sampling (Ho et al. 2020, Eq. 6-7). NFE = S.

    The mean is that of the posterior either way. variance="large" draws with beta_t in the place of the
    posterior's variance, the "sigma-hat" row of DDIM's table; none in the last step.
    """
    if variance not in ("small", "large"):
        raise ConfigError(f"ddpm: variance must be 'small' or 'large', got {variance!r}")
    draft = Draft()
    for s, s_next in grid.steps:
        e = draft.call(s)
        tilde = _posterior_std(s, s_next)
        drawn = tilde if variance == "small" or s_next == 0 else _forward_std(s, s_next)
        draft.commit(X + (math.sqrt(s_next**2 - tilde**2) - s) * e + drawn * Z)
    return finish(draft, f"ddpm-{variance}", grid, 1)


def repaint(
    schedule: Schedule, grid: Grid, *, jump_length: int = 10, num_resamples: int = 10, eta: float = 1.0
) -> SamplingPlan:
    """DDIM(eta) that walks back: after every jump_length steps it diffuses up to where they began, and does
    them again, num_resamples times in all (Lugmayr et al. 2022, Algorithm 1 and section 4.2).

    The first jump_length steps are taken once. Made for `editing.known_region`, whose two sides agree better
    each time. NFE = S + (num_resamples - 1) times the steps below the first jump_length.
    """
    if jump_length < 1 or num_resamples < 1 or not 0 <= eta <= 1:
        raise ConfigError(
            f"repaint: need jump_length >= 1, num_resamples >= 1 and 0 <= eta <= 1, "
            f"got {jump_length}, {num_resamples}, {eta}"
        )
    draft = Draft()
    for begin in range(0, grid.num_steps, jump_length):
        levels = grid.sigmas[begin : begin + jump_length + 1]
        turns = num_resamples if begin else 1  # nothing to agree on yet in pure noise
        for turn in range(turns):
            for s, s_next in pairwise(levels):
                e = draft.call(s)
                tilde = eta * _posterior_std(s, s_next)
                back = levels[0] ** 2 - s_next**2 if s_next == levels[-1] and turn < turns - 1 else 0.0
                draft.commit(X + (math.sqrt(s_next**2 - tilde**2) - s) * e + math.sqrt(tilde**2 + back) * Z)
    return finish(draft, f"repaint{num_resamples}x{jump_length}", grid, 1)


def _posterior_std(s: float, s_next: float) -> float:
    """Standard deviation of q(x_next | x, x_0)."""
    return s_next * math.sqrt(1 - (s_next / s) ** 2)


def _forward_std(s: float, s_next: float) -> float:
    """sqrt(beta) of the variance-preserving step next -> now, in this coordinate: sqrt((1 - a / a') / a')."""
    return math.sqrt((s**2 - s_next**2) / (1 + s**2) * (1 + s_next**2))
