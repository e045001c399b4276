"""Runge-Kutta plans: Heun's method, the stochastic samplers built on it, and FON."""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch

from raydiance.diffusion.drafting import Draft, Symbol, X, Z, finish
from raydiance.diffusion.grids import Grid
from raydiance.diffusion.plan import SamplingPlan
from raydiance.diffusion.plans.adams import adams_bashforth
from raydiance.diffusion.schedules import DiscreteSchedule, Schedule
from raydiance.errors import ConfigError

__all__ = ["edm_stochastic", "fon", "heun", "restart"]


def heun(schedule: Schedule, grid: Grid) -> SamplingPlan:
    """Heun's second-order method, Euler in the hop to 0 (Karras et al. 2022, Algorithm 1). NFE = 2 S - 1."""
    draft = Draft()
    for s, s_next in grid.steps:
        draft.commit(_heun_step(draft, s, s_next))
    return finish(draft, "heun", grid, 2)


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
    return finish(draft, f"edm-churn{churn:g}", grid, 2)


def restart(
    schedule: Schedule,
    grid: Grid,
    *,
    intervals: Sequence[tuple[float, float, int, int]] = ((0.06, 0.30, 3, 2),),
    noise_scale: float = 1.0,
) -> SamplingPlan:
    """Heun's method that goes back: on reaching `low` it diffuses up to `high` and comes down again in a few
    steps (Xu et al. 2023, Algorithm 1).

    intervals: (low, high, num_levels, num_restarts); low is taken at the nearest level of the grid above 0;
    the way down has num_levels noise levels as in Karras et al. with rho = 7.
    """
    levels = [sigma for sigma in grid.sigmas if sigma > 0]
    visits: dict[float, tuple[list[float], int]] = {}
    for low, high, num_levels, num_restarts in intervals:
        if not (0 < low < high < grid.sigmas[0] and num_levels >= 2 and num_restarts >= 1):
            raise ConfigError(
                "restart: need 0 < low < high < sigma_max, num_levels >= 2 and num_restarts >= 1, "
                f"got {low}, {high}, {num_levels}, {num_restarts}"
            )
        floor = min(levels, key=lambda sigma: abs(math.log(sigma / low)))
        way = torch.linspace(high ** (1 / 7), floor ** (1 / 7), num_levels, dtype=torch.float64) ** 7
        visits[floor] = ([*way[:-1].tolist(), floor], num_restarts)
    draft = Draft()
    for s, s_next in grid.steps:
        way_down, turns = visits.get(s_next, ([], 0))
        up = noise_scale * math.sqrt(way_down[0] ** 2 - s_next**2) * Z if turns else Symbol()
        draft.commit(_heun_step(draft, s, s_next) + up)
        for turn in range(turns):
            for a, b in pairwise(way_down):
                again = b == s_next and turn < turns - 1
                draft.commit(_heun_step(draft, a, b) + (up if again else Symbol()))
    return finish(draft, f"restart{len(visits)}", grid, 2)


def fon(schedule: Schedule, grid: Grid) -> SamplingPlan:
    """Fourth-order Runge-Kutta, then four-step Adams-Bashforth, on dx_vp/dt (Liu et al. 2022, "FON"). NFE = S
    + 9.

    The drift is the change of x_vp = alpha x over one training step, d = phi(x, e; t -> t - 1) - x_vp, and
    that is what the history keeps. Needs a schedule that counts training steps.
    """
    if not isinstance(schedule, DiscreteSchedule):
        raise ConfigError(
            f"fon: its drift is one training step, and schedule {schedule.name} has none; use deis"
        )
    draft, past = Draft(), list[Symbol]()
    times = schedule.time(torch.tensor(grid.sigmas, dtype=torch.float64)).tolist()
    for i, (t, t_next) in enumerate(pairwise(times)):
        x_vp, step, middle = _alpha(schedule, t) * X, t - t_next, (t + t_next) / 2
        past.insert(0, _drift(draft, schedule, t, x_vp))
        if i < 3 and t_next > -1e-6:  # a level's time is known up to rounding; clean data has none to ask at
            d1 = past[0]
            d2 = _drift(draft, schedule, middle, x_vp + step / 2 * d1)
            d3 = _drift(draft, schedule, middle, x_vp + step / 2 * d2)
            d4 = _drift(draft, schedule, t_next, x_vp + step * d3)
            change = step / 6 * (d1 + 2 * d2 + 2 * d3 + d4)
        else:
            change = step * adams_bashforth(past, 4)
        draft.commit((x_vp + change) / _alpha(schedule, t_next))
    return finish(draft, "fon", grid, 4)


def _alpha(schedule: Schedule, t: float) -> float:
    return float((1 + schedule.sigma(torch.tensor(t, dtype=torch.float64)) ** 2) ** -0.5)


def _drift(draft: Draft, schedule: Schedule, t: float, x_vp: Symbol) -> Symbol:
    """phi(x, e; t -> t - 1) - x_vp, with e asked at x_vp."""
    s, s_before = schedule.sigma(torch.tensor([t, t - 1], dtype=torch.float64)).tolist()
    alpha, alpha_before = _alpha(schedule, t), _alpha(schedule, t - 1)
    return draft.call(s, x_vp / alpha, keep=(alpha_before - alpha, alpha_before * (s_before - s)))


def _heun_step(draft: Draft, s: float, s_next: float) -> Symbol:
    """Where Heun's method arrives at s_next; Euler's, if that is 0."""
    e = draft.call(s)
    if s_next == 0:
        return X + (s_next - s) * e
    e_next = draft.call(s_next, X + (s_next - s) * e)
    return X + (s_next - s) / 2 * (e + e_next)
