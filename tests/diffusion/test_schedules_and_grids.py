"""Schedules are one-to-one maps in float64; grids have exactly S steps and descend to clean data."""

import math
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch

from raydiance.diffusion import Grid, Schedule, grids, plans, schedules
from raydiance.errors import ConfigError

SCHEDULES: list[Schedule] = [
    schedules.linear(),
    schedules.quadratic(),
    schedules.cosine(),
    schedules.edm(),
    schedules.log_snr(),
]
BY_NAME = pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda schedule: schedule.name)


@BY_NAME
def test_time_and_sigma_undo_each_other(schedule: Schedule) -> None:
    t = torch.linspace(schedule.t_data, schedule.t_max, 1777, dtype=torch.float64)
    sigma = schedule.sigma(t)
    assert sigma.dtype == torch.float64 and bool((sigma.diff() > 0).all())
    torch.testing.assert_close(
        schedule.time(sigma), t, rtol=0, atol=1e-9 * (schedule.t_max - schedule.t_data)
    )
    assert abs(float(sigma[0])) < 1e-12
    assert float(schedule.sigma(torch.tensor(schedule.t_max, dtype=torch.float64))) == schedule.sigma_max
    assert float(schedule.sigma(torch.tensor(schedule.t_min, dtype=torch.float64))) == pytest.approx(
        schedule.sigma_min, rel=1e-12
    )


def test_published_values_of_the_linear_schedule() -> None:
    a = schedules.linear().alphas_cumprod
    assert [round(float(a[t]), 6) for t in (0, 900, 999)] == [0.9999, 0.00027, 0.00004]
    assert schedules.linear().sigma_min == pytest.approx(0.0100005)
    assert schedules.linear().sigma_max == pytest.approx(157.4073, rel=1e-6)


def test_cosine_follows_its_formula_until_the_cap() -> None:
    f = [math.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2 for u in torch.linspace(0, 1, 1001).tolist()]
    a = schedules.cosine().alphas_cumprod
    for t in (0, 10, 500, 990):
        assert float(a[t]) == pytest.approx(f[t + 1] / f[0], rel=1e-4)


def test_the_log_snr_schedule_runs_between_its_bounds() -> None:
    schedule = schedules.log_snr(-20, 20)
    assert -2 * math.log(schedule.sigma_max) == pytest.approx(-20)
    assert -2 * math.log(schedule.sigma_min) == pytest.approx(20)


def test_half_precision_does_not_lose_the_clean_end() -> None:
    """alpha_bar rounds to 1 in half precision; the tables do not pass through it."""
    sigma = schedules.linear().sigma(torch.arange(3).to(torch.bfloat16))
    assert bool((sigma > 0).all())


@BY_NAME
@pytest.mark.parametrize("name", sorted(plans.GRIDS))
def test_every_grid_has_exactly_the_steps_asked_for(schedule: Schedule, name: str) -> None:
    make = plans.GRIDS[name]
    if name == "leading" and not isinstance(schedule, schedules.DiscreteSchedule):
        with pytest.raises(ConfigError, match="counts training steps"):
            make(schedule, 5)
        return
    for num_steps in (1, 2, 3, 7, 30, 91, 100, 250):
        grid = make(schedule, num_steps)
        assert grid.num_steps == num_steps and grid.sigmas[-1] == 0
        if name != "leading":
            assert grid.sigmas[0] == pytest.approx(schedule.sigma_max, rel=1e-9)
    with pytest.raises(ConfigError, match="num_steps >= 1, got 0"):
        make(schedule, 0)


def test_grids_meet_their_definitions() -> None:
    linear, edm = schedules.linear(), schedules.edm()

    def times(grid: Grid) -> list[float]:
        return linear.time(torch.tensor(grid.sigmas[:-1], dtype=torch.float64)).tolist()

    assert times(grids.leading(linear, 10)) == pytest.approx(list(range(900, -1, -100)), abs=1e-8)
    assert times(grids.leading(linear, 30)) == pytest.approx(list(range(29 * 33, -1, -33)), abs=1e-8)
    assert times(grids.trailing(linear, 7)) == pytest.approx([999 - i * 1000 / 7 for i in range(7)])
    assert times(grids.linspace(linear, 4)) == pytest.approx([999, 666, 333, 0], abs=1e-8)
    assert times(grids.quadratic(linear, 4)) == pytest.approx([999, 444, 111, 0], abs=1e-8)
    assert times(grids.sigmoid(linear, 3)) == pytest.approx([999, 499.5, 0], abs=1e-8)
    assert grids.linspace(edm, 18).sigmas == pytest.approx(grids.karras(edm, 18).sigmas)
    ratios = [a / b for a, b in pairwise(grids.log_snr(edm, 9).sigmas[:-1])]
    assert ratios == pytest.approx([ratios[0]] * 8)
    published = [80.0, 57.58598, 40.785538, 28.374571]  # the first levels of N = 18
    assert grids.karras(edm, 18).sigmas[:4] == pytest.approx(published, rel=1e-5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: grids.explicit([1.0, 2.0]), "must descend, but 1.0 is followed by 2.0"),
        (lambda: grids.explicit([1.0, 1.0]), "must descend"),
        (lambda: grids.explicit([]), "at least one step"),
        (lambda: grids.explicit([float("nan")]), "finite"),
        (lambda: grids.leading(schedules.linear(), 1001), "only 1000"),
        (lambda: grids.karras(schedules.edm(), 5, rho=0), "rho > 0"),
        (lambda: schedules.linear(0), "num_train_steps >= 1"),
        (lambda: schedules.linear(10, 0.5, 0.1), "beta_min <= beta_max"),
        (lambda: schedules.edm(1.0, 0.5), "sigma_min < sigma_max"),
        (lambda: schedules.log_snr(1.0, 1.0), "minimum < maximum"),
        (lambda: schedules.cosine(beta_cap=1.0), "zero SNR"),
        (lambda: schedules.from_alphas_cumprod(torch.tensor([0.9, 0.5, 0.0])), "zero SNR"),
        (lambda: schedules.from_alphas_cumprod(torch.tensor([0.9, 0.95])), "strictly decreasing"),
    ],
)
def test_what_is_undefined_is_refused_by_name(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()
