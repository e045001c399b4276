"""The probability-flow ODE solved to a tolerance: the reference that plans are measured against, and no plan
itself.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from raydiance.diffusion.preconditioning import NoisePredictor
from raydiance.errors import ConfigError

__all__ = ["Solution", "probability_flow"]

# Dormand & Prince 1980, RK5(4)7M; the last stage of a step is the first of the next
NODES = (0.0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0)
STAGES: tuple[tuple[float, ...], ...] = (
    (),
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
)
FIFTH = (*STAGES[-1], 0.0)
FOURTH = (5179 / 57600, 0.0, 7571 / 16695, 393 / 640, -92097 / 339200, 187 / 2100, 1 / 40)


class Solution(NamedTuple):
    """Clean data, and the network calls it took."""

    x_0: Tensor
    nfe: int


def probability_flow(
    predict_noise: NoisePredictor,
    x: Tensor,
    sigma_max: float,
    *,
    sigma_min: float = 1e-3,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    max_nfe: int = 100_000,
) -> Solution:
    """From x [B, ...] at sigma_max down to sigma_min by adaptive Runge-Kutta in ln sigma, then straight to 0.

    rtol, atol: bounds on the error of a step, root mean square over the batch (atol in units of the data,
    since what is wrong at sigma counts for 1 / (1 + sigma) of it at the end). (Song et al. 2021b, section
    4.3: "PF", RK45.)
    """
    if not 0 < sigma_min < sigma_max:
        raise ConfigError(
            f"probability_flow: need 0 < sigma_min < sigma_max, got {sigma_min} and {sigma_max}"
        )

    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32

    def slope(point: Tensor, u: float) -> Tensor:
        return math.exp(u) * predict_noise(
            point, torch.full(x.shape[:1], math.exp(u), dtype=dtype, device=x.device)
        )

    u, end = math.log(sigma_max), math.log(sigma_min)
    h, nfe = -0.1, 1
    first = slope(x, u)
    while u > end:
        last = h <= end - u
        h = end - u if last else h
        stages = [first]
        for node, weights in zip(NODES[1:], STAGES[1:]):
            stages.append(slope(_combine(x, stages, weights, h), u + node * h))
        nfe += len(NODES) - 1
        if nfe > max_nfe:
            raise ConfigError(
                f"probability_flow: more than {max_nfe} calls at sigma = {math.exp(u):.3g}; loosen rtol, atol"
            )
        fifth = _combine(x, stages, FIFTH, h)
        miss = fifth - _combine(x, stages, FOURTH, h)
        scale = atol * (1 + math.exp(u)) + rtol * torch.maximum(x.abs(), fifth.abs())
        error = float((miss / scale).square().mean().sqrt())
        if error <= 1:
            u, x, first = end if last else u + h, fifth, stages[-1]
        h *= min(5.0, max(0.2, 0.9 * max(error, 1e-10) ** -0.2))
    return Solution(x - first, nfe)


def _combine(x: Tensor, stages: list[Tensor], weights: tuple[float, ...], h: float) -> Tensor:
    for weight, stage in zip(weights, stages):
        if weight != 0:
            x = torch.add(x, stage, alpha=h * weight)
    return x
