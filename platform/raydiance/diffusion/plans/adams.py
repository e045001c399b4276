"""Multistep plans of the Adams-Bashforth kind: past noise predictions are extrapolated over the step.

In the coordinate of this package the transfer of PNDM, phi(x, e; sigma -> sigma'), is x + (sigma' - sigma) e,
so every method here is x' = x + (sigma' - sigma) e', and they differ in e' alone.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch

from raydiance.diffusion.drafting import Draft, Symbol, X
from raydiance.diffusion.grids import Grid
from raydiance.diffusion.plan import SamplingPlan
from raydiance.diffusion.schedules import Schedule
from raydiance.errors import ConfigError

__all__ = ["deis", "fpndm", "ipndm", "plms", "spndm"]

# Newest first; exact for polynomials on equal steps.
ADAMS_BASHFORTH: tuple[tuple[float, ...], ...] = (
    (1.0,),
    (3 / 2, -1 / 2),
    (23 / 12, -16 / 12, 5 / 12),
    (55 / 24, -59 / 24, 37 / 24, -9 / 24),
)


def ipndm(schedule: Schedule, grid: Grid, *, order: int = 4) -> SamplingPlan:
    """PNDM without its Runge-Kutta start: Adams-Bashforth of rising order 1 .. 4 (Zhang & Chen 2023). NFE =
    S.
    """
    _check_steps("ipndm", order, 4)
    draft, past = Draft(), list[Symbol]()
    for sigma, sigma_next in grid.steps:
        past.insert(0, draft.call(sigma))
        draft.commit(X + (sigma_next - sigma) * _adams(past, order))
    return _finish(draft, f"ipndm{order}", grid, min(order, 2))


def plms(schedule: Schedule, grid: Grid, *, order: int = 4) -> SamplingPlan:
    """PNDM with an improved Euler step as its start (Liu et al. 2022, A.4). NFE = S + 1, or 1 if S = 1."""
    _check_steps("plms", order, 4)
    return _finish(_plms_draft(grid, order), f"plms{order}", grid, min(order, 2))


def spndm(schedule: Schedule, grid: Grid) -> SamplingPlan:
    """S-PNDM: improved Euler, then two-step Adams-Bashforth (Liu et al. 2022, Algorithm 3). NFE = S + 1, or 1
    if S = 1.
    """
    return _finish(_plms_draft(grid, 2), "spndm", grid, 2)


def fpndm(schedule: Schedule, grid: Grid) -> SamplingPlan:
    """F-PNDM: three pseudo Runge-Kutta steps, then four-step Adams-Bashforth (Liu et al. 2022, Algorithm 2).

    NFE = S + 9 for S >= 4. With fewer steps all but the last are Runge-Kutta, since nothing can be asked at
    sigma = 0.
    """
    draft, past = Draft(), list[Symbol]()
    for i, (sigma, sigma_next) in enumerate(grid.steps):
        past.insert(0, draft.call(sigma))
        step = sigma_next - sigma
        if i < 3 and sigma_next > 0:
            middle = _middle(schedule, sigma, sigma_next)
            e1 = past[0]
            e2 = draft.call(middle, X + (middle - sigma) * e1)
            e3 = draft.call(middle, X + (middle - sigma) * e2)
            e4 = draft.call(sigma_next, X + step * e3)
            draft.commit(X + step / 6 * (e1 + 2 * e2 + 2 * e3 + e4))
        else:
            draft.commit(X + step * _adams(past, 4))
    return _finish(draft, "fpndm", grid, 2)


def deis(
    schedule: Schedule, grid: Grid, *, order: int = 3, variable: Literal["time", "sigma"] = "time"
) -> SamplingPlan:
    """Exponential integrator: e is the polynomial through the last order + 1 predictions, integrated exactly.
    NFE = S.

    The polynomial is in t ("tAB" of Zhang & Chen 2023, Eq. 15) or in sigma ("rhoAB", Adams-Bashforth on
    unequal steps).
    """
    _check_steps("deis", order, 3)
    if variable not in ("time", "sigma"):
        raise ConfigError(f"deis: variable must be 'time' or 'sigma', got {variable!r}")
    levels = torch.tensor(grid.sigmas, dtype=torch.float64)
    nodes = (schedule.time(levels) if variable == "time" else levels).tolist()
    draft, past = Draft(), list[Symbol]()
    for i, (sigma, sigma_next) in enumerate(grid.steps):
        past.insert(0, draft.call(sigma))
        count = min(i, order) + 1
        weights = _integrals(schedule, nodes[i - count + 1 : i + 1][::-1], sigma, sigma_next, variable)
        draft.commit(sum((w * e for w, e in zip(weights, past)), X))
    return _finish(draft, f"deis{order}" + ("" if variable == "time" else "-sigma"), grid, order + 1)


def _plms_draft(grid: Grid, order: int) -> Draft:
    draft, past = Draft(), list[Symbol]()
    for i, (sigma, sigma_next) in enumerate(grid.steps):
        past.insert(0, draft.call(sigma))
        step = sigma_next - sigma
        if i == 0 and sigma_next > 0 and order > 1:
            ahead = draft.call(sigma_next, X + step * past[0])
            draft.commit(X + step / 2 * (past[0] + ahead))
        else:
            draft.commit(X + step * _adams(past, order))
    return draft


def _adams(past: Sequence[Symbol], order: int) -> Symbol:
    weights = ADAMS_BASHFORTH[min(len(past), order) - 1]
    return sum((w * e for w, e in zip(weights, past)), Symbol())


def _middle(schedule: Schedule, sigma: float, sigma_next: float) -> float:
    """The noise level half way in time."""
    times = schedule.time(torch.tensor([sigma, sigma_next], dtype=torch.float64))
    return float(schedule.sigma(times.mean()))


def _integrals(
    schedule: Schedule, nodes: Sequence[float], sigma: float, sigma_next: float, variable: str
) -> list[float]:
    """Integral over sigma -> sigma_next of each Lagrange polynomial through the nodes, by Gauss-Legendre
    quadrature.
    """
    points, weights = np.polynomial.legendre.leggauss(64)
    levels = torch.from_numpy((sigma + sigma_next) / 2 + (sigma_next - sigma) / 2 * points)
    at = (schedule.time(levels) if variable == "time" else levels).numpy()
    scaled = weights * (sigma_next - sigma) / 2
    result = []
    for j, node in enumerate(nodes):
        others = [other for k, other in enumerate(nodes) if k != j]
        basis = np.prod([(at - other) / (node - other) for other in others], axis=0)
        result.append(float(np.sum(scaled * basis)))
    return result


def _check_steps(name: str, order: int, most: int) -> None:
    if not 1 <= order <= most:
        raise ConfigError(f"{name}: order must be 1 .. {most}, got {order}")


def _finish(draft: Draft, solver: str, grid: Grid, order: int) -> SamplingPlan:
    name = f"{solver}/{grid.name}-{grid.num_steps}"
    return draft.plan(name, order=order, sigma_max=grid.sigmas[0], sigma_min=grid.sigmas[-1])
