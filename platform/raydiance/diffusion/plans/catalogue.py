"""Plans by name: for searches, and for settings that come out of a file."""

import difflib
import inspect
from collections.abc import Callable, Collection
from typing import Any

from raydiance.diffusion import grids
from raydiance.diffusion.plan import SamplingPlan
from raydiance.diffusion.plans.adams import deis, fpndm, ipndm, plms, spndm
from raydiance.diffusion.plans.ancestral import ddim, ddpm, repaint
from raydiance.diffusion.plans.exponential import dpm_solver_pp, dpm_solver_pp_sde, unipc
from raydiance.diffusion.plans.runge_kutta import edm_stochastic, fon, heun, restart
from raydiance.diffusion.schedules import DiscreteSchedule, Schedule
from raydiance.errors import ConfigError

__all__ = ["GRIDS", "SOLVERS", "build", "candidates"]

SOLVERS: dict[str, Callable[..., SamplingPlan]] = {
    constructor.__name__: constructor
    for constructor in (
        ddim,
        ddpm,
        deis,
        dpm_solver_pp,
        dpm_solver_pp_sde,
        edm_stochastic,
        fon,
        fpndm,
        heun,
        ipndm,
        plms,
        repaint,
        restart,
        spndm,
        unipc,
    )
}

GRIDS: dict[str, Callable[..., grids.Grid]] = {
    constructor.__name__: constructor
    for constructor in (
        grids.asinh,
        grids.karras,
        grids.leading,
        grids.linspace,
        grids.log_snr,
        grids.quadratic,
        grids.sigmoid,
        grids.trailing,
    )
}

# What is tried at a given number of calls: solver, its options, and S as a function of the calls (0: none).
TRIED: tuple[tuple[str, dict[str, Any], Callable[[int], int]], ...] = (
    *(("ddim", {"eta": eta}, lambda nfe: nfe) for eta in (0.0, 0.2, 0.5, 1.0)),
    ("ddpm", {"variance": "large"}, lambda nfe: nfe),
    ("spndm", {}, lambda nfe: nfe - 1 if nfe > 2 else 0),
    ("plms", {}, lambda nfe: nfe - 1 if nfe > 3 else 0),
    ("fpndm", {}, lambda nfe: nfe - 9 if nfe > 12 else 0),
    ("fon", {}, lambda nfe: nfe - 9 if nfe > 12 else 0),
    *(("ipndm", {"order": order}, lambda nfe: nfe) for order in (2, 3, 4)),
    *(("deis", {"order": order}, lambda nfe: nfe) for order in (1, 2, 3, 4)),
    *(("deis", {"order": order, "variable": "sigma"}, lambda nfe: nfe) for order in (2, 3)),
    *(("deis", {"order": order, "variable": "angle"}, lambda nfe: nfe) for order in (2, 3, 4, 5)),
    *(("deis", {"order": order, "variable": "asinh", "scale": 0.3}, lambda nfe: nfe) for order in (3, 4, 5)),
    *(("dpm_solver_pp", {"order": order}, lambda nfe: nfe) for order in (2, 3)),
    ("dpm_solver_pp_sde", {}, lambda nfe: nfe),
    *(("unipc", {"order": order}, lambda nfe: nfe) for order in (2, 3)),
    ("heun", {}, lambda nfe: (nfe + 1) // 2 if nfe % 2 and nfe > 1 else 0),
    ("edm_stochastic", {"churn": 10.0}, lambda nfe: (nfe + 1) // 2 if nfe % 2 and nfe > 1 else 0),
)


def build(solver: str, schedule: Schedule, grid: str, num_steps: int, **options: Any) -> SamplingPlan:
    """The plan of a solver on a grid, both by name; options are the solver's own.

    Raises ConfigError for names and options that do not exist, so that no setting is silently without effect.
    """
    constructor = SOLVERS[_known("solver", solver, SOLVERS)]
    spacing = GRIDS[_known("grid", grid, GRIDS)]
    known = [name for name in inspect.signature(constructor).parameters if name not in ("schedule", "grid")]
    for option in options:
        if option not in known:
            raise ConfigError(
                f"solver {solver}: option {option!r} has no effect on it; it knows {known or 'none'}"
            )
    return constructor(schedule, spacing(schedule, num_steps), **options)


def candidates(schedule: Schedule, nfe: int) -> dict[str, SamplingPlan]:
    """Every training-free plan that spends exactly `nfe` network calls, by its name."""
    if nfe < 1:
        raise ConfigError(f"candidates: need nfe >= 1, got {nfe}")
    train_steps = schedule.num_train_steps if isinstance(schedule, DiscreteSchedule) else 0
    found: dict[str, SamplingPlan] = {}
    for solver, options, steps in TRIED:
        num_steps = steps(nfe)
        if num_steps == 0 or (solver == "fon" and train_steps == 0):
            continue
        for grid in GRIDS:
            if grid == "leading" and num_steps > train_steps:
                continue
            plan = build(solver, schedule, grid, num_steps, **options)
            found[plan.name] = plan
    return found


def _known(what: str, name: str, known: Collection[str]) -> str:
    if name in known:
        return name
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ConfigError(f"{what} {name!r} is unknown, there are {sorted(known)}{hint}")
