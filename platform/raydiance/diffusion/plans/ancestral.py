"""One-step plans with and without fresh noise: DDIM and DDPM.

With s the current and s' the next noise level, a step that draws noise of standard deviation tilde < s' is
x' = x + (sqrt(s'^2 - tilde^2) - s) e + tilde z: what noise is to remain beside the fresh one points along e.
"""

import math
from typing import Literal

from raydiance.diffusion.drafting import Draft, X, Z
from raydiance.diffusion.grids import Grid
from raydiance.diffusion.plan import SamplingPlan
from raydiance.diffusion.schedules import Schedule
from raydiance.errors import ConfigError

__all__ = ["ddim", "ddpm"]


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
    return _finish(draft, "ddim" if eta == 0 else f"ddim-eta{eta:g}", grid)


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
    return _finish(draft, f"ddpm-{variance}", grid)


def _posterior_std(s: float, s_next: float) -> float:
    """Standard deviation of q(x_next | x, x_0)."""
    return s_next * math.sqrt(1 - (s_next / s) ** 2)


def _forward_std(s: float, s_next: float) -> float:
    """sqrt(beta) of the variance-preserving step next -> now, in this coordinate: sqrt((1 - a / a') / a')."""
    return math.sqrt((s**2 - s_next**2) / (1 + s**2) * (1 + s_next**2))


def _finish(draft: Draft, solver: str, grid: Grid) -> SamplingPlan:
    name = f"{solver}/{grid.name}-{grid.num_steps}"
    return draft.plan(name, order=1, sigma_max=grid.sigmas[0], sigma_min=grid.sigmas[-1])
