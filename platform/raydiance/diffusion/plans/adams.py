"""Multistep plans of the Adams-Bashforth kind: past noise predictions are extrapolated over the step.

In the coordinate of this package the transfer of PNDM, phi(x, e; sigma -> sigma'), is x + (sigma' - sigma) e,
so every method here is x' = x + (sigma' - sigma) e', and they differ in e' alone.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch

from raydiance.diffusion.drafting import Draft, Symbol, X, finish
from raydiance.diffusion.grids import Grid
from raydiance.diffusion.plan import SamplingPlan
from raydiance.diffusion.quadrature import Function, lagrange_integrals
from raydiance.diffusion.schedules import Schedule
from raydiance.errors import ConfigError

__all__ = ["adams_bashforth", "deis", "fpndm", "ipndm", "plms", "spndm"]

# Newest first; exact for polynomials on equal steps.
ADAMS_BASHFORTH: tuple[tuple[float, ...], ...] = (
    (1.0,),
    (3 / 2, -1 / 2),
    (23 / 12, -16 / 12, 5 / 12),
    (55 / 24, -59 / 24, 37 / 24, -9 / 24),
)
MOST_GAIN = 1e3  # of float32's rounding, 1e-7, a ten-thousandth


def ipndm(schedule: Schedule, grid: Grid, *, order: int = 4) -> SamplingPlan:
    """PNDM without its Runge-Kutta start: Adams-Bashforth of rising order 1 .. 4 (Zhang & Chen 2023). NFE =
    S.
    """
    _check_order("ipndm", order, 4)
    draft, past = Draft(), list[Symbol]()
    for sigma, sigma_next in grid.steps:
        past.insert(0, draft.call(sigma))
        draft.commit(X + (sigma_next - sigma) * adams_bashforth(past, order))
    return finish(draft, f"ipndm{order}", grid, min(order, 2))


def plms(schedule: Schedule, grid: Grid, *, order: int = 4) -> SamplingPlan:
    """PNDM with an improved Euler step as its start (Liu et al. 2022, A.4). NFE = S + 1, or 1 if S = 1."""
    _check_order("plms", order, 4)
    return finish(_plms_draft(grid, order), f"plms{order}", grid, min(order, 2))


def spndm(schedule: Schedule, grid: Grid) -> SamplingPlan:
    """S-PNDM: improved Euler, then two-step Adams-Bashforth (Liu et al. 2022, Algorithm 3). NFE = S + 1, or 1
    if S = 1.
    """
    return finish(_plms_draft(grid, 2), "spndm", grid, 2)


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
            draft.commit(X + step * adams_bashforth(past, 4))
    return finish(draft, "fpndm", grid, 2)


def deis(
    schedule: Schedule,
    grid: Grid,
    *,
    order: int = 3,
    variable: Literal["time", "sigma", "angle", "asinh"] = "time",
    scale: float = 1.0,
) -> SamplingPlan:
    """Exponential integrator: e is the polynomial through the last order + 1 predictions, integrated exactly.
    NFE = S.

    The polynomial is in "time" ("tAB" of Zhang & Chen 2023, Eq. 15), in "sigma" (Adams-Bashforth on unequal
    steps), in the "angle" arctan(sigma / scale), whose sine is e itself if the data is Gaussian of that
    standard deviation, or in "asinh" (sigma / scale), which is sigma near the data and its logarithm far
    away. It is of lower order in a step so much longer than the ones before that its weights would multiply the
    predictions' rounding: by more than MOST_GAIN times the step.
    """
    _check_order("deis", order, 5)
    functions: dict[str, Function] = {
        "time": lambda sigma: schedule.time(torch.from_numpy(sigma)).numpy(),
        "sigma": lambda sigma: sigma,
        "angle": lambda sigma: np.arctan(sigma / scale),
        "asinh": lambda sigma: np.arcsinh(sigma / scale),
    }
    if variable not in functions or not scale > 0:
        raise ConfigError(
            f"deis: need a variable of {list(functions)} and scale > 0, got {variable!r} and {scale}"
        )
    if scale != 1 and variable in ("time", "sigma"):
        raise ConfigError(f"deis: scale has no effect on variable {variable!r}; leave it at 1")
    function = functions[variable]
    nodes = function(np.array(grid.sigmas))
    draft, past = Draft(), list[Symbol]()
    for i, (sigma, sigma_next) in enumerate(grid.steps):
        past.insert(0, draft.call(sigma))
        last = nodes[max(i - order, 0) : i + 1][::-1].tolist()
        for count in range(len(last), 0, -1):
            # in the root of sigma, since the variable may be steep at 0
            weights = lagrange_integrals(
                last[:count],
                sigma**0.25,
                sigma_next**0.25,
                variable=lambda u: function(u**4),
                weight=lambda u: 4 * u**3,
            )
            if sum(map(abs, weights)) <= MOST_GAIN * abs(sigma_next - sigma):
                break
        draft.commit(sum((w * e for w, e in zip(weights, past)), X))
    solver = (
        f"deis{order}" + ("" if variable == "time" else f"-{variable}") + ("" if scale == 1 else f"{scale:g}")
    )
    return finish(draft, solver, grid, order + 1)


def _plms_draft(grid: Grid, order: int) -> Draft:
    draft, past = Draft(), list[Symbol]()
    for i, (sigma, sigma_next) in enumerate(grid.steps):
        past.insert(0, draft.call(sigma))
        step = sigma_next - sigma
        if i == 0 and sigma_next > 0 and order > 1:
            ahead = draft.call(sigma_next, X + step * past[0])
            draft.commit(X + step / 2 * (past[0] + ahead))
        else:
            draft.commit(X + step * adams_bashforth(past, order))
    return draft


def adams_bashforth(past: Sequence[Symbol], order: int) -> Symbol:
    """The mean over the next step of what the past ones, newest first, extrapolate to; of the order the past
    allows.
    """
    weights = ADAMS_BASHFORTH[min(len(past), order) - 1]
    return sum((w * e for w, e in zip(weights, past)), Symbol())


def _middle(schedule: Schedule, sigma: float, sigma_next: float) -> float:
    """The noise level half way in time."""
    times = schedule.time(torch.tensor([sigma, sigma_next], dtype=torch.float64))
    return float(schedule.sigma(times.mean()))


def _check_order(name: str, order: int, most: int) -> None:
    if not 1 <= order <= most:
        raise ConfigError(f"{name}: order must be 1 .. {most}, got {order}")
