"""What a search for sampling plans tries: a solver on a grid with some number of network calls."""

import itertools
import random
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from typing import TypeVar

from raydiance.config.platform import GridName, Solver, TuneSpec
from raydiance.diffusion import grids, plans, schedules
from raydiance.diffusion.plans import SamplingPlan
from raydiance.spec import digest, spec

__all__ = ["Candidate", "build", "by_turns", "candidates", "teacher_plan"]

T = TypeVar("T")

MULTISTEP_ORDER = 3
DPMPP_ORDER = 2
ASINH_SCALE = 0.3


@spec
class Candidate:
    """One point of the search space; `nfe` is the most it may spend (Heun spends an odd number of calls).

    learned: the numbers of this plan's table are a start only, from which others were fitted.
    """

    solver: Solver
    nfe: int
    grid: GridName
    rho: float
    eta: float
    sigma_min: float
    sigma_max: float
    learned: bool = False

    @property
    def is_stochastic(self) -> bool:
        return self.eta > 0

    @property
    def is_learnable(self) -> bool:
        """Whether its rows are steps over past predictions alone, which is what can be fitted."""
        return self.solver in ("ddim", "ipndm", "deis", "deis_asinh") and not self.is_stochastic

    @property
    def identity(self) -> str:
        """A short name that is this candidate's alone."""
        return digest(self)


def build(candidate: Candidate) -> SamplingPlan:
    """The plan of a candidate; of one that is learned, the plan it started from."""
    schedule = schedules.edm(candidate.sigma_min, candidate.sigma_max)
    steps = (candidate.nfe + 1) // 2 if candidate.solver == "heun" else candidate.nfe
    match candidate.grid:
        case "karras":
            grid = grids.karras(schedule, steps, candidate.rho)
        case "log_snr":
            grid = grids.log_snr(schedule, steps)
        case "asinh":
            grid = grids.asinh(schedule, steps)
    match candidate.solver:
        case "ddim":
            return plans.ddim(schedule, grid, eta=candidate.eta)
        case "ipndm":
            return plans.ipndm(schedule, grid, order=MULTISTEP_ORDER)
        case "deis":
            return plans.deis(schedule, grid, order=MULTISTEP_ORDER)
        case "deis_asinh":
            return plans.deis(schedule, grid, order=MULTISTEP_ORDER, variable="asinh", scale=ASINH_SCALE)
        case "unipc":
            return plans.unipc(schedule, grid, order=MULTISTEP_ORDER)
        case "dpmpp":
            return plans.dpm_solver_pp(schedule, grid, order=DPMPP_ORDER)
        case "heun":
            return plans.heun(schedule, grid)


def candidates(tune: TuneSpec, nfe: int, seed: int) -> list[Candidate]:
    """Every combination at one number of calls, in an order drawn from the seed, one of each solver first.

    eta belongs to ddim alone, rho to the Karras grid alone; the others get the value that has no effect.
    """
    found = [
        Candidate(
            solver=solver,
            nfe=nfe,
            grid=grid,
            rho=rho,
            eta=eta,
            sigma_min=tune.sigma_min,
            sigma_max=sigma_max,
        )
        for solver, grid, sigma_max in itertools.product(tune.solvers, tune.grids, tune.sigma_max)
        for rho in (tune.rhos if grid == "karras" else (1.0,))
        for eta in (tune.etas if solver == "ddim" else (0.0,))
    ]
    random.Random(seed).shuffle(found)
    return by_turns(found, lambda candidate: (candidate.solver, candidate.is_stochastic))


def by_turns(items: Sequence[T], kind: Callable[[T], Hashable]) -> list[T]:
    """The first one of each kind, then the second of each, and so on; otherwise as they came."""
    count = Counter[Hashable]()
    turns = []
    for item in items:
        count[kind(item)] += 1
        turns.append(count[kind(item)])
    return [item for _, item in sorted(zip(turns, items), key=lambda pair: pair[0])]


def teacher_plan(tune: TuneSpec) -> SamplingPlan:
    """The fine-step plan that samples are held against."""
    schedule = schedules.edm(tune.sigma_min, max(tune.sigma_max))
    return plans.deis(schedule, grids.karras(schedule, tune.teacher_nfe), order=MULTISTEP_ORDER)
