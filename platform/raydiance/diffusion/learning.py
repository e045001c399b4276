"""Learned plans: the numbers of a table fitted so that few calls end where a fine-step teacher ends.

What is free: the noise level that each call names to the network (it need not be the one that x is at), and
the weight of every past prediction in every step. A plan of K calls has K + K (K + 1) / 2 numbers, so few
that the fit is a small least-squares problem: Gauss-Newton steps with Levenberg's damping, and derivatives
through the table by differences. It needs forward calls of the network only, and what comes out is a plan
like any other. (In the manner of S4S, Frankel et al. 2025, who take stochastic gradients instead.)
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from raydiance.diffusion import schedules
from raydiance.diffusion.plan import Form, Row, SamplingPlan
from raydiance.diffusion.plans.catalogue import candidates
from raydiance.diffusion.preconditioning import NoisePredictor
from raydiance.diffusion.sampling import sample
from raydiance.diffusion.schedules import Schedule
from raydiance.errors import ConfigError

__all__ = ["Fit", "Table", "distil", "learn", "pack", "unpack"]

LOWER_STARTS = (80.0, 40.0, 20.0)


class Table(NamedTuple):
    """The free numbers of a plan: ln sigma [K], and weights [K, K], newest first, in units of the row's step."""

    log_sigma: Tensor
    weights: Tensor


@dataclass(frozen=True)
class Fit:
    """A learned plan; its error on the noises it was fitted to, and that of the plan it came from."""

    plan: SamplingPlan
    error: float
    error_before: float
    num_iterations: int


def pack(plan: SamplingPlan) -> Table:
    """The free numbers of a plan whose every row is x + sum_j b_j e_j. Raises ConfigError for other plans."""
    count = plan.nfe
    weights = torch.zeros(count, count, dtype=torch.float64)
    for k, row in enumerate(plan.rows):
        if not _is_multistep(row):
            raise ConfigError(
                f"plan {plan.name}: each row must be a step x + sum of past e; use ddim, ipndm or deis"
            )
        assert row.commit is not None
        history = torch.tensor(row.commit.history, dtype=torch.float64)
        weights[k, : len(history)] = history / _unit(row)
    return Table(torch.tensor([math.log(row.sigma) for row in plan.rows], dtype=torch.float64), weights)


def unpack(table: Table, like: SamplingPlan, name: str) -> SamplingPlan:
    """The plan with these numbers in the rows of `like`."""
    rows = tuple(
        Row(
            sigma=math.exp(float(table.log_sigma[k])),
            commit=Form(history=tuple((table.weights[k, : k + 1] * _unit(row)).tolist())),
        )
        for k, row in enumerate(like.rows)
    )
    return replace(like, name=name, rows=rows)


def distil(
    predict_noise: NoisePredictor,
    plan: SamplingPlan,
    noise: Tensor,
    target: Tensor,
    *,
    num_iterations: int = 40,
    robust: bool = True,
    callback: Callable[[int, float], None] | None = None,
) -> Fit:
    """Fit the plan so that plan.start(noise) [N, ...] ends at target [N, ...].

    The error is the mean over items of the root mean square (robust), or the root mean square of everything.
    One iteration costs about K^2 / 2 runs of the plan. Stops early when no step helps.
    """
    x = plan.start(noise)
    rows, columns = torch.tril_indices(plan.nfe, plan.nfe)
    start = pack(plan)
    low, high = float(start.log_sigma.min()) - 1.0, float(start.log_sigma.max()) + 0.1

    def plan_of(theta: Tensor) -> SamplingPlan:
        weights = torch.zeros_like(start.weights)
        weights[rows, columns] = theta[plan.nfe :]
        log_sigma = theta[: plan.nfe].clamp(low, high)
        return unpack(Table(log_sigma, weights), plan, f"learned-{plan.name}")

    def residual(theta: Tensor) -> Tensor:
        with torch.no_grad():
            return (sample(predict_noise, plan_of(theta), x) - target).flatten(1)

    theta = torch.cat([start.log_sigma, start.weights[rows, columns]])
    damping, r = 1e-2, residual(theta)
    error = before = _error(r, robust)
    for iteration in range(num_iterations):
        gradient, hessian = _normal_equations(residual, theta, r, robust)
        for _ in range(8):
            diagonal = hessian.diagonal()
            damped = hessian + damping * torch.diag(diagonal + 1e-9 * diagonal.max())
            candidate = theta - torch.linalg.solve(damped, gradient)
            if bool(candidate.isfinite().all()):
                r_next = residual(candidate)
                if _error(r_next, robust) < error:
                    break
            damping *= 4
        else:
            return Fit(plan_of(theta), error, before, iteration)
        theta, r, damping = candidate, r_next, max(damping / 4, 1e-8)
        error = _error(r, robust)
        if callback is not None:
            callback(iteration, error)
    return Fit(plan_of(theta), error, before, num_iterations)


def learn(
    predict_noise: NoisePredictor,
    schedule: Schedule,
    nfe: int,
    noise: Tensor,
    target: Tensor,
    *,
    num_starts: int = 3,
    num_iterations: int = 40,
    robust: bool = True,
) -> Fit:
    """Distil the best training-free plans of `nfe` calls, one for each of num_starts grids, and keep the best
    result.

    Plans that start lower than the schedule, where noise still hides all data, take part: they waste no call up
    there, and what they miss on the way to their start the fit makes good.
    """
    shorter = [
        schedules.edm(schedule.sigma_min, level) for level in LOWER_STARTS if level < schedule.sigma_max
    ]
    pool = [plan for each in (schedule, *shorter) for plan in candidates(each, nfe).values()]
    ranked = sorted(
        (
            (_error((sample(predict_noise, plan, plan.start(noise)) - target).flatten(1), robust), plan)
            for plan in pool
            if all(_is_multistep(row) for row in plan.rows)
        ),
        key=lambda pair: pair[0],
    )
    starts: dict[str, SamplingPlan] = {}
    for _, plan in ranked:
        starts.setdefault(plan.name.partition("/")[2], plan)
    fits = [
        distil(predict_noise, plan, noise, target, num_iterations=num_iterations, robust=robust)
        for plan in list(starts.values())[:num_starts]
    ]
    return min(fits, key=lambda fit: fit.error)


def _is_multistep(row: Row) -> bool:
    plain = row.query == Form() and row.keep == (0.0, 1.0)
    return plain and row.commit is not None and row.commit.x == 1 and row.commit.noise == 0


def _unit(row: Row) -> float:
    """The length of the row's step, so that its weights are of order 1."""
    assert row.commit is not None
    return abs(sum(row.commit.history))


def _error(r: Tensor, robust: bool) -> float:
    squares = r.square().mean(1)
    value = float(squares.sqrt().mean() if robust else squares.mean().sqrt())
    return value if math.isfinite(value) else math.inf


def _normal_equations(
    residual: Callable[[Tensor], Tensor], theta: Tensor, r: Tensor, robust: bool
) -> tuple[Tensor, Tensor]:
    """J^T W r and J^T W J, J by forward differences; W makes the square of each item its root (robust)."""
    step = 1e-6 if r.dtype == torch.float64 else 3e-3
    columns = []
    for i in range(len(theta)):
        moved = theta.clone()
        moved[i] += step
        columns.append((residual(moved) - r).flatten() / step)
    jacobian = torch.stack(columns, 1).double()
    size = r.square().mean(1).sqrt()
    weight = 1 / (size + 1e-2 * size.median()) if robust else torch.ones_like(size)
    weighted = jacobian * (weight / weight.mean()).double().repeat_interleave(r.shape[1])[:, None]
    return (weighted.T @ r.flatten().double()).cpu(), (weighted.T @ jacobian).cpu()
