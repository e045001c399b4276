"""Multistep plans in lambda = -ln sigma that extrapolate the prediction of clean data: DPM-Solver++.

Over a step of length h = lambda' - lambda the data part is multiplied by 1 - s'/s = -expm1(-h); the history
keeps x_0. The hop to sigma = 0 has infinite h and takes x_0 as it is.
"""

import math

from raydiance.diffusion.drafting import Draft, Symbol, X
from raydiance.diffusion.grids import Grid
from raydiance.diffusion.plan import SamplingPlan
from raydiance.diffusion.schedules import Schedule
from raydiance.errors import ConfigError

__all__ = ["dpm_solver_pp"]


def dpm_solver_pp(schedule: Schedule, grid: Grid, *, order: int = 2) -> SamplingPlan:
    """DPM-Solver++ multistep of order 1 .. 3 (Lu et al. 2022b, Algorithm 2). NFE = S."""
    if not 1 <= order <= 3:
        raise ConfigError(f"dpm_solver_pp: order must be 1 .. 3, got {order}")
    draft, past, lengths = Draft(), list[Symbol](), list[float]()
    for s, s_next in grid.steps:
        past.insert(0, draft.call_x_0(s))
        if s_next == 0:
            draft.commit(past[0])
            break
        lengths.insert(0, math.log(s / s_next))
        draft.commit(s_next / s * X + _data_part(past, lengths, min(order, len(past))))
    name = f"dpmpp{order}m/{grid.name}-{grid.num_steps}"
    return draft.plan(name, order=order, sigma_max=grid.sigmas[0], sigma_min=grid.sigmas[-1])


def _data_part(past: list[Symbol], lengths: list[float], order: int) -> Symbol:
    """-(e^-h - 1) x_0 and the corrections from its divided differences, newest first."""
    h = lengths[0]
    phi_1 = math.expm1(-h)
    if order == 1:
        return -phi_1 * past[0]
    r_0 = lengths[1] / h
    slope = (past[0] - past[1]) / r_0
    if order == 2:
        return -phi_1 * (past[0] + 0.5 * slope)
    r_1 = lengths[2] / h
    older = (past[1] - past[2]) / r_1
    first = slope + r_0 / (r_0 + r_1) * (slope - older)
    second = (slope - older) / (r_0 + r_1)
    phi_2 = phi_1 / h + 1
    phi_3 = phi_2 / h - 0.5
    return -phi_1 * past[0] + phi_2 * first - phi_3 * second
