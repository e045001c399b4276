"""Learned plans beat what they came from on noises they never saw; searched grids; the adaptive reference."""

import itertools

import pytest
import torch
from torch import Tensor

from raydiance.diffusion import grids, learning, mixtures, plans, reference, sample, schedules, search
from raydiance.errors import ConfigError

LINEAR, EDM = schedules.linear(), schedules.edm()
MIXTURE = mixtures.smooth(dim=4, components=5)


def noises(count: int, seed: int, dim: int = 4) -> Tensor:
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def rms(x: Tensor, y: Tensor) -> float:
    return float((x - y).square().mean().sqrt())


def test_packing_is_undone_by_unpacking() -> None:
    plan = plans.deis(EDM, grids.karras(EDM, 6))
    again = learning.unpack(learning.pack(plan), plan, plan.name)
    x = plan.start(noises(3, 0))
    torch.testing.assert_close(
        sample(MIXTURE.predict_noise, again, x),
        sample(MIXTURE.predict_noise, plan, x),
        rtol=1e-10,
        atol=1e-10,
    )
    for other in (plans.heun(EDM, grids.karras(EDM, 3)), plans.ddpm(EDM, grids.karras(EDM, 3))):
        with pytest.raises(ConfigError, match="use ddim, ipndm or deis"):
            learning.pack(other)


def test_a_learned_plan_is_three_times_better_on_unseen_noises() -> None:
    train, test = noises(96, 1), noises(256, 2)
    target, truth = (MIXTURE.data(EDM.sigma_max * z, EDM.sigma_max, 300) for z in (train, test))
    best = min(
        rms(sample(MIXTURE.predict_noise, plan, plan.start(test)), truth)
        for plan in plans.candidates(EDM, 4).values()
        if not plan.is_stochastic
    )
    fit = learning.learn(
        MIXTURE.predict_noise, EDM, 4, train, target, num_starts=2, num_iterations=25, robust=False
    )
    assert fit.error < fit.error_before / 3
    assert (fit.plan.nfe, fit.plan.is_stochastic) == (4, False)
    assert plans.from_json(fit.plan.to_json()) == fit.plan
    assert rms(sample(MIXTURE.predict_noise, fit.plan, fit.plan.start(test)), truth) < best / 3


def test_distilling_in_float32_improves_too() -> None:
    plan = plans.ddim(EDM, grids.karras(EDM, 4))
    train = noises(64, 1).float()
    target = MIXTURE.data(EDM.sigma_max * train.double(), EDM.sigma_max, 300).float()
    fit = learning.distil(MIXTURE.predict_noise, plan, train, target, num_iterations=6)
    assert fit.error < fit.error_before / 3


def test_the_shortest_way_is_the_one_that_trying_all_finds() -> None:
    costs = torch.rand(9, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64).triu(1)
    costs[costs == 0] = torch.inf

    def price(way: tuple[int, ...], growth: float) -> float:
        total = 0.0
        for i, j in itertools.pairwise(way):
            total = growth * total + float(costs[i, j])
        return total

    for num_steps, growth in ((1, 1.0), (3, 1.0), (4, 1.15), (8, 1.15)):
        ways = [(0, *inner, 8) for inner in itertools.combinations(range(1, 8), num_steps - 1)]
        expected = min(ways, key=lambda way: price(way, growth))
        assert tuple(search.shortest_way(costs, num_steps, growth)) == expected


def test_a_searched_grid_beats_the_usual_ones_for_euler() -> None:
    teacher = plans.deis(EDM, grids.karras(EDM, 60))
    grid = search.searched_grid(MIXTURE.predict_noise, teacher, noises(64, 1), 6)
    assert grid.num_steps == 6 and grid.sigmas[0] == teacher.sigma_max
    test = noises(128, 2)
    truth = MIXTURE.data(EDM.sigma_max * test, EDM.sigma_max, 300)
    errors = {
        g.name: rms(sample(MIXTURE.predict_noise, plans.ddim(EDM, g), EDM.sigma_max * test), truth)
        for g in (grid, grids.karras(EDM, 6), grids.trailing(EDM, 6), grids.log_snr(EDM, 6))
    }
    assert min(errors, key=lambda name: errors[name]) == "searched"
    with pytest.raises(ConfigError, match="1 <= num_steps <= 60"):
        search.searched_grid(MIXTURE.predict_noise, teacher, noises(2, 1), 61)


def test_the_reference_meets_its_tolerance_on_a_gaussian() -> None:
    gaussian = mixtures.single()
    x = 80.0 * noises(32, 0, dim=3)
    expected = mixtures.gaussian_path(gaussian, x, 80.0, 0.0)
    calls = []
    for tolerance in (1e-3, 1e-5, 1e-7):
        solution = reference.probability_flow(gaussian.predict_noise, x, 80.0, rtol=tolerance, atol=tolerance)
        assert (
            rms(solution.x_0, expected) < 100 * tolerance + 1e-6
        )  # the last hop, from 1e-3, is taken straight
        calls.append(solution.nfe)
    assert calls == sorted(calls) and calls[0] < 250
    with pytest.raises(ConfigError, match="sigma_min < sigma_max"):
        reference.probability_flow(gaussian.predict_noise, x, 1e-4)
    with pytest.raises(ConfigError, match="more than 20 calls"):
        reference.probability_flow(gaussian.predict_noise, x, 80.0, max_nfe=20)
