"""The mathematics of noise: schedules, grids, sampling plans, one sampling loop, preconditioning and
losses.
"""

from raydiance.diffusion import (
    editing,
    grids,
    guidance,
    learning,
    losses,
    mixtures,
    plans,
    preconditioning,
    reference,
    sampling,
    schedules,
    search,
)
from raydiance.diffusion.grids import Grid
from raydiance.diffusion.plan import Form, Row, SamplingPlan
from raydiance.diffusion.preconditioning import EDM, NoisePredictor, Preconditioning
from raydiance.diffusion.sampling import PlanBatch, Randomness, SamplerState, sample
from raydiance.diffusion.schedules import Schedule

__all__ = [
    "EDM",
    "Form",
    "Grid",
    "NoisePredictor",
    "PlanBatch",
    "Preconditioning",
    "Randomness",
    "Row",
    "SamplerState",
    "SamplingPlan",
    "Schedule",
    "editing",
    "grids",
    "guidance",
    "learning",
    "losses",
    "mixtures",
    "plans",
    "preconditioning",
    "reference",
    "sample",
    "sampling",
    "schedules",
    "search",
]
