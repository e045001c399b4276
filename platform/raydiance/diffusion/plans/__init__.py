"""Sampling plans: each constructor takes a schedule and a grid and writes a table of coefficients, nothing
more.
"""

from raydiance.diffusion.plan import SamplingPlan, from_json
from raydiance.diffusion.plans.adams import deis, fpndm, ipndm, plms, spndm
from raydiance.diffusion.plans.ancestral import ddim, ddpm, repaint
from raydiance.diffusion.plans.catalogue import GRIDS, SOLVERS, build, candidates
from raydiance.diffusion.plans.exponential import dpm_solver_pp, dpm_solver_pp_sde, unipc
from raydiance.diffusion.plans.runge_kutta import edm_stochastic, fon, heun, restart

__all__ = [
    "GRIDS",
    "SOLVERS",
    "SamplingPlan",
    "build",
    "candidates",
    "ddim",
    "ddpm",
    "deis",
    "dpm_solver_pp",
    "dpm_solver_pp_sde",
    "edm_stochastic",
    "fon",
    "fpndm",
    "from_json",
    "heun",
    "ipndm",
    "plms",
    "repaint",
    "restart",
    "spndm",
    "unipc",
]
