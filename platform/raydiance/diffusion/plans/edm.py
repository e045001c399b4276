"""Runge-Kutta plans in sigma: Heun's method and the stochastic sampler of Karras et al. 2022."""

import math

from raydiance.diffusion.drafting import Draft, X, Z
from raydiance.diffusion.grids import Grid
from raydiance.diffusion.plan import SamplingPlan
from raydiance.diffusion.schedules import Schedule
from raydiance.errors import ConfigError

__all__ = ["edm_stochastic", "heun"]


def heun(schedule: Schedule, grid: Grid) -> SamplingPlan:
    """Heun's second-order method, Euler in the hop to 0 (Karras et al. 2022, Algorithm 1). NFE = 2 S - 1."""
    draft = Draft()
    for s, s_next in grid.steps:
        e = draft.call(s)
        if s_next > 0:
            e_next = draft.call(s_next, X + (s_next - s) * e)
            draft.commit(X + (s_next - s) / 2 * (e + e_next))
        else:
            draft.commit(X + (s_next - s) * e)
    return _finish(draft, "heun", grid, grid.sigmas[0])


def edm_stochastic(
    schedule: Schedule,
    grid: Grid,
    *,
    churn: float,
    churn_min: float = 0.0,
    churn_max: float = math.inf,
    noise_scale: float = 1.0,
) -> SamplingPlan:
    """Heun's method with fresh noise before each step (Karras et al. 2022, Algorithm 2). NFE = 2 S - 1.

    churn, churn_min, churn_max, noise_scale: S_churn, S_min, S_max and S_noise of the paper.
    """
    if not (0 < churn < math.inf and 0 <= churn_min < churn_max and noise_scale > 0):
        raise ConfigError(
            "edm_stochastic: need churn > 0 (0 is plans.heun), 0 <= churn_min < churn_max and "
            f"noise_scale > 0, got {churn}, {churn_min}, {churn_max}, {noise_scale}"
        )
    draft = Draft()
    for s, s_next in grid.steps:
        gamma = min(churn / grid.num_steps, math.sqrt(2) - 1) if churn_min <= s <= churn_max else 0.0
        s_hat = s * (1 + gamma)
        x_hat = X + noise_scale * math.sqrt(s_hat**2 - s**2) * Z
        step = s_next - s_hat
        e = draft.call(s_hat, x_hat)
        if s_next > 0:
            draft.commit(x_hat)
            e_next = draft.call(s_next, X + step * e)
            draft.commit(X + step / 2 * (e + e_next))
        else:
            draft.commit(x_hat + step * e)
    return _finish(draft, f"edm-churn{churn:g}", grid, grid.sigmas[0])


def _finish(draft: Draft, solver: str, grid: Grid, sigma_max: float) -> SamplingPlan:
    name = f"{solver}/{grid.name}-{grid.num_steps}"
    order = 2 if grid.num_steps > 1 else 1
    return draft.plan(name, order=order, sigma_max=sigma_max, sigma_min=grid.sigmas[-1])
