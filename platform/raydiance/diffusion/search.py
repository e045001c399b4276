"""Searched grids: where to stop on the way down, read off a teacher's trajectories by dynamic programming."""

import torch
from torch import Tensor

from raydiance.diffusion.grids import Grid, explicit
from raydiance.diffusion.plan import SamplingPlan
from raydiance.diffusion.preconditioning import NoisePredictor
from raydiance.diffusion.sampling import Step, sample
from raydiance.errors import ConfigError

__all__ = ["euler_costs", "searched_grid", "shortest_way"]


def searched_grid(
    predict_noise: NoisePredictor,
    teacher: SamplingPlan,
    noise: Tensor,
    num_steps: int,
    *,
    growth: float = 1.15,
) -> Grid:
    """The S levels, out of those of a fine one-call teacher, with the least sum of Euler's errors (Chen et
    al. 2024, GITS).

    noise: [N, ...], some hundred are enough. growth: what an error made early counts for more, per later
    step.
    """
    if not 1 <= num_steps <= teacher.nfe:
        raise ConfigError(
            f"searched_grid: need 1 <= num_steps <= {teacher.nfe} (the teacher's), got {num_steps}"
        )
    levels, costs = euler_costs(predict_noise, teacher, noise)
    way = shortest_way(costs, num_steps, growth)
    return explicit([levels[i] for i in way[:-1]], "searched")


def euler_costs(
    predict_noise: NoisePredictor, teacher: SamplingPlan, noise: Tensor
) -> tuple[list[float], Tensor]:
    """The teacher's levels and the end, [M + 1], and the mean distance [M + 1, M + 1] by which one Euler step
    from level i to level j misses the teacher's point there.
    """
    steps: list[Step] = []
    with torch.no_grad():
        end = sample(predict_noise, teacher, teacher.start(noise), callback=steps.append)
    levels = [step.sigma for step in steps] + [teacher.sigma_min]
    points = [step.query.flatten(1) for step in steps] + [end.flatten(1)]
    costs = torch.full((len(levels), len(levels)), torch.inf, dtype=torch.float64)
    for i, step in enumerate(steps):
        for j in range(i + 1, len(levels)):
            jump = points[i] + (levels[j] - levels[i]) * step.eps.flatten(1)
            costs[i, j] = (jump - points[j]).norm(dim=1).mean()
    return levels, costs


def shortest_way(costs: Tensor, num_steps: int, growth: float = 1.0) -> list[int]:
    """Indices 0 .. M of the cheapest way in exactly num_steps steps; what came before a step counts growth
    times.
    """
    count = len(costs)
    best = torch.full((count,), torch.inf, dtype=costs.dtype)
    best[0] = 0
    origins: list[Tensor] = []
    for _ in range(num_steps):
        best, origin = (growth * best[:, None] + costs).min(dim=0)
        origins.append(origin)
    way = [count - 1]
    for origin in reversed(origins):
        way.append(int(origin[way[-1]]))
    return way[::-1]
