"""The sampling loop: runs any plan from noise to data.

Legend: x the base point, q the query point, e = predict_noise(q, sigma) the predicted noise, history what the
plan keeps of past calls (newest first); x_0 = q - sigma e is the preview of the data. All in the coordinate
where x = x_0 + sigma * noise. Coefficients are Python numbers, so no step reads anything back from the device
and the loop can be compiled or captured.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from raydiance.diffusion.arithmetic import point_of
from raydiance.diffusion.batching import PlanBatch, Query
from raydiance.diffusion.plan import SamplingPlan
from raydiance.diffusion.preconditioning import NoisePredictor
from raydiance.diffusion.randomness import Randomness, draw_noise
from raydiance.errors import ConfigError

__all__ = ["NoisePredictor", "PlanBatch", "Query", "Randomness", "SamplerState", "Step", "sample"]


class SamplerState(NamedTuple):
    """Everything the loop knows between two rows; sampling goes on from it as if it had never stopped."""

    row: int  # rows done
    x: Tensor
    history: tuple[Tensor, ...] = ()


class Step(NamedTuple):
    """What the callback sees after each row."""

    state: SamplerState
    query: Tensor
    eps: Tensor
    sigma: float

    @property
    def x_0(self) -> Tensor:
        """The preview of the data as the network sees it now."""
        return self.query - self.sigma * self.eps


def sample(
    predict_noise: NoisePredictor,
    plan: SamplingPlan,
    x: Tensor | SamplerState,
    *,
    generator: Randomness = None,
    callback: Callable[[Step], None] | None = None,
) -> Tensor:
    """Run the plan from x (noise at plan.sigma_max, see plan.start) to its end; any shape [B, ...], any
    dtype.

    x may also be the state of a callback's step: then the loop goes on behind it (with the generators as they
    were). Raises ConfigError if the plan draws noise and no generator is given.
    """
    start, x, history = x if isinstance(x, SamplerState) else SamplerState(0, x)
    stochastic = plan.is_stochastic
    if generator is None and stochastic:
        raise ConfigError(f"plan {plan.name} draws fresh noise: pass a torch.Generator, or one per item")
    memory, batch = plan.memory, x.shape[:1]
    sigma_dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    for done, row in enumerate(plan.rows[start:], start=start + 1):
        z = draw_noise(generator, x) if stochastic and row.draws_noise else None
        q = point_of(row.query, x, history, z)
        e = predict_noise(q, x.new_full(batch, row.sigma, dtype=sigma_dtype))
        if e.dtype != x.dtype:
            e = e.to(x.dtype)
        history = (_kept(row.keep, q, e), *history[: memory - 1])
        if row.commit is not None:
            x = point_of(row.commit, x, history, z)
        if callback is not None:
            callback(Step(SamplerState(done, x, history), q, e, row.sigma))
    return x


def _kept(keep: tuple[float, float], q: Tensor, e: Tensor) -> Tensor:
    """u q + v e."""
    u, v = keep
    if u == 0 and v == 1:
        return e
    return torch.add(q, e, alpha=v) if u == 1 else (q * u).add_(e, alpha=v)
