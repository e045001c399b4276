"""Multistep plans in lambda = -ln sigma that extrapolate the prediction of clean data: DPM-Solver++ and
UniPC.

Over a step of length h = lambda' - lambda the current point is multiplied by s'/s = exp(-h) and the data part
by 1 - s'/s = -expm1(-h); the history keeps x_0. The hop to sigma = 0 has infinite h and takes x_0 as it is.
"""

import math
from collections.abc import Sequence

import numpy as np

from raydiance.diffusion.drafting import Draft, Symbol, X, Z, finish
from raydiance.diffusion.grids import Grid
from raydiance.diffusion.plan import SamplingPlan
from raydiance.diffusion.quadrature import lagrange_integrals
from raydiance.diffusion.schedules import Schedule
from raydiance.errors import ConfigError

__all__ = ["dpm_solver_pp", "dpm_solver_pp_sde", "unipc"]


def dpm_solver_pp(schedule: Schedule, grid: Grid, *, order: int = 2) -> SamplingPlan:
    """DPM-Solver++ multistep of "order" 1 .. 3 (Lu et al. 2022b, Algorithm 2). NFE = S.

    3 is as its authors run it: with half the second difference that third order asks for (UniPC has the whole
    one), so that it converges with order 2 but extrapolates less boldly, which serves it well at few steps.
    """
    _check("dpm_solver_pp", order, 3)
    draft, past, lengths = Draft(), list[Symbol](), list[float]()
    for s, s_next in grid.steps:
        past.insert(0, draft.call_x_0(s))
        if s_next == 0:
            draft.commit(past[0])
            break
        lengths.insert(0, math.log(s / s_next))
        draft.commit(s_next / s * X + _data_part(past, lengths, min(order, len(past))))
    return finish(draft, f"dpmpp{order}m", grid, min(order, 2))


def dpm_solver_pp_sde(schedule: Schedule, grid: Grid, *, order: int = 2) -> SamplingPlan:
    """SDE-DPM-Solver++ of order 1 or 2: the same extrapolation of x_0 along the reverse diffusion
    (Lu et al. 2022b, Eq. 18). NFE = S. Order 1 is DDPM.
    """
    _check("dpm_solver_pp_sde", order, 2)
    draft, past, lengths = Draft(), list[Symbol](), list[float]()
    for s, s_next in grid.steps:
        past.insert(0, draft.call_x_0(s))
        x_0 = past[0]
        if s_next > 0:
            lengths.insert(0, math.log(s / s_next))
            if order == 2 and len(past) > 1:
                x_0 = x_0 + 0.5 * lengths[0] / lengths[1] * (past[0] - past[1])
        kept = (s_next / s) ** 2
        draft.commit(kept * X + (1 - kept) * x_0 + s_next * math.sqrt(1 - kept) * Z)
    return finish(draft, f"dpmpp{order}m-sde", grid, 1)


def unipc(schedule: Schedule, grid: Grid, *, order: int = 2) -> SamplingPlan:
    """UniPC (Zhao et al. 2023): each prediction also corrects the step that led to it. NFE = S.

    Predictor and corrector take the polynomial through the last `order` predictions, and the new one. Its
    integral is taken exactly, so the function B(h) of the paper drops out. The base point is the predicted one:
    what the corrector adds to it enters the next step, so that a row has one form instead of two.
    """
    _check("unipc", order, 3)
    draft, past, predicted = Draft(), list[Symbol](), Symbol()
    for i, (s, s_next) in enumerate(grid.steps):
        past.insert(0, draft.call_x_0(s))
        if s_next == 0:
            draft.commit(past[0])
            break
        levels = grid.sigmas[max(i - order, 0) : i + 1][::-1]  # this one, then the `order` before it
        corrected = X + _integral(levels[1], s, levels, past) - predicted if i else X
        predicted = _integral(s, s_next, levels[:order], past)
        draft.commit(s_next / s * corrected + predicted)
    return finish(draft, f"unipc{order}", grid, order + 1)


def _data_part(past: list[Symbol], lengths: list[float], order: int) -> Symbol:
    """-expm1(-h) x_0 and the corrections from its divided differences, newest first."""
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


def _integral(s: float, s_next: float, levels: Sequence[float], past: Sequence[Symbol]) -> Symbol:
    """The integral over a step of exp(lambda - lambda') times the polynomial through x_0 at the levels, newest
    first.
    """
    start, end = -math.log(s), -math.log(s_next)
    weights = lagrange_integrals(
        [-math.log(level) for level in levels], start, end, weight=lambda lam: np.exp(lam - end)
    )
    return sum((w * x_0 for w, x_0 in zip(weights, past)), Symbol())


def _check(name: str, order: int, most: int) -> None:
    if not 1 <= order <= most:
        raise ConfigError(f"{name}: order must be 1 .. {most}, got {order}")
