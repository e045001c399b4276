"""The mathematics of noise: schedules, grids, sampling plans, one sampling loop, preconditioning and
losses.
"""

from raydiance.diffusion import grids, losses, mixtures, plans, preconditioning, sampling, schedules
from raydiance.diffusion.grids import Grid
from raydiance.diffusion.plan import Form, Row, SamplingPlan
from raydiance.diffusion.preconditioning import EDM
from raydiance.diffusion.sampling import NoisePredictor, PlanBatch, Randomness, SamplerState, sample
from raydiance.diffusion.schedules import Schedule

__all__ = [
    "EDM",
    "Form",
    "Grid",
    "NoisePredictor",
    "PlanBatch",
    "Randomness",
    "Row",
    "SamplerState",
    "SamplingPlan",
    "Schedule",
    "grids",
    "losses",
    "mixtures",
    "plans",
    "preconditioning",
    "sample",
    "sampling",
    "schedules",
]
