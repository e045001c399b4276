"""Sampling plans: each constructor takes a schedule and a grid and writes a table of coefficients, nothing
more.
"""

from raydiance.diffusion.plan import SamplingPlan, from_json
from raydiance.diffusion.plans.adams import deis, fpndm, ipndm, plms, spndm
from raydiance.diffusion.plans.ancestral import ddim, ddpm
from raydiance.diffusion.plans.edm import edm_stochastic, heun
from raydiance.diffusion.plans.exponential import dpm_solver_pp

__all__ = [
    "SamplingPlan",
    "ddim",
    "ddpm",
    "deis",
    "dpm_solver_pp",
    "edm_stochastic",
    "fpndm",
    "from_json",
    "heun",
    "ipndm",
    "plms",
    "spndm",
]
