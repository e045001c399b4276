"""Solvers against theorems: order of consistency, exactness on polynomials and Gaussians, posteriors, NFE."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from raydiance.diffusion import Grid, SamplingPlan, Schedule, grids, mixtures, plans, sample, schedules
from raydiance.diffusion.sampling import SamplerState
from raydiance.errors import ConfigError

LINEAR, EDM = schedules.linear(), schedules.edm()
GAUSSIAN = mixtures.single()
Make = Callable[[Schedule, Grid], SamplingPlan]

DETERMINISTIC: dict[str, Make] = {
    "ddim": plans.ddim,
    "spndm": plans.spndm,
    "plms": plans.plms,
    "fpndm": plans.fpndm,
    "ipndm1": lambda s, g: plans.ipndm(s, g, order=1),
    "ipndm2": lambda s, g: plans.ipndm(s, g, order=2),
    "ipndm4": plans.ipndm,
    **{f"deis{k}": lambda s, g, k=k: plans.deis(s, g, order=k) for k in (1, 2, 3)},
    **{f"deis{k}-sigma": lambda s, g, k=k: plans.deis(s, g, order=k, variable="sigma") for k in (2, 3)},
    **{
        f"deis{k}-angle": lambda s, g, k=k: plans.deis(s, g, order=k, variable="angle", scale=2.0)
        for k in (2, 4)
    },
    **{f"deis{k}-asinh": lambda s, g, k=k: plans.deis(s, g, order=k, variable="asinh") for k in (3,)},
    **{f"dpmpp{k}m": lambda s, g, k=k: plans.dpm_solver_pp(s, g, order=k) for k in (1, 2, 3)},
    **{f"unipc{k}": lambda s, g, k=k: plans.unipc(s, g, order=k) for k in (1, 2, 3)},
    "heun": plans.heun,
}


def exact(x: Tensor, sigma: float, sigma_end: float) -> Tensor:
    return mixtures.gaussian_path(GAUSSIAN, x, sigma, sigma_end)


def slope(x: Tensor, sigma: float) -> Tensor:
    return GAUSSIAN.predict_noise(x, torch.full(x.shape[:1], sigma, dtype=x.dtype))


def last_step_error(plan: SamplingPlan, grid: Grid) -> float:
    """Error of the last step alone: up to there the base point and all that is remembered are put on the
    exact path.
    """
    x = plan.start(torch.randn(32, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    commits = [k for k, row in enumerate(plan.rows) if row.commit is not None]
    begin = commits[-2] + 1
    history: tuple[Tensor, ...] = ()
    for row in plan.rows[:begin]:
        q = exact(x, plan.sigma_max, row.sigma)
        history = (row.keep[0] * q + row.keep[1] * slope(q, row.sigma), *history)
    state = SamplerState(begin, exact(x, plan.sigma_max, grid.sigmas[-2]), history[: plan.memory])
    end = sample(GAUSSIAN.predict_noise, plan, state)
    return float((end - exact(x, plan.sigma_max, plan.sigma_min)).norm())


@pytest.mark.parametrize("name", [name for name in DETERMINISTIC if not name.startswith("unipc")])
def test_a_step_of_length_h_adds_an_error_of_its_order(name: str) -> None:
    """On equal steps of time between two positive levels, the last step's error falls as h^(order + 1)."""
    errors, lengths = [], (160, 320)
    for count in lengths:
        times = torch.linspace(0.9, 0.62, count + 1, dtype=torch.float64)[-14:]
        grid = Grid("part", tuple(EDM.sigma(times).tolist()))
        errors.append(last_step_error(DETERMINISTIC[name](EDM, grid), grid))
    observed = math.log2(errors[0] / errors[1])
    expected = DETERMINISTIC[name](EDM, grids.linspace(EDM, 20)).order + 1
    assert observed == pytest.approx(expected, abs=0.15), errors


@pytest.mark.parametrize(
    ("name", "order"),
    [
        ("ddim", 1),
        ("heun", 2),
        ("spndm", 2),
        ("fpndm", 2),
        ("ipndm4", 2),
        ("dpmpp2m", 2),
        ("deis1", 2),
        ("deis3-sigma", 4),
        ("unipc1", 2),
        ("unipc2", 3),
        ("unipc3", 4),
    ],
)
def test_the_whole_path_converges_with_its_order(name: str, order: int) -> None:
    """From sigma = 80 to 0.1 on a Gaussian, where the first steps with their lower order do not matter."""
    errors = []
    schedule = schedules.edm(0.1, 80.0)
    for num_steps in (160, 320):
        grid = Grid("open", grids.linspace(schedule, num_steps + 1).sigmas[:-1])
        plan = DETERMINISTIC[name](schedule, grid)
        x = plan.start(torch.randn(32, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
        error = sample(GAUSSIAN.predict_noise, plan, x) - exact(x, plan.sigma_max, plan.sigma_min)
        errors.append(float(error.norm()))
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.15)


@pytest.mark.parametrize("variable", ["time", "sigma", "angle", "asinh"])
@pytest.mark.parametrize("order", [1, 3, 5])
def test_deis_integrates_polynomials_of_its_degree_exactly(variable: str, order: int) -> None:
    schedule = schedules.linear()
    grid = grids.quadratic(schedule, 12)
    plan = plans.deis(schedule, grid, order=order, variable=variable)  # type: ignore[arg-type]
    levels = torch.tensor(grid.sigmas, dtype=torch.float64)
    u = {
        "time": (schedule.time(levels) + 1) / 1000,
        "sigma": levels / 157.0,
        "angle": levels.atan(),
        "asinh": levels.asinh(),
    }[variable]
    along = {float(s): float(v**order) for s, v in zip(levels, u)}  # slope = variable ** order, whatever x

    def predict_noise(x: Tensor, sigma: Tensor) -> Tensor:
        return torch.full_like(x, along[float(sigma[0])])

    ends: dict[int, Tensor] = {}
    sample(
        predict_noise,
        plan,
        torch.zeros(1, 1, dtype=torch.float64),
        callback=lambda step: ends.__setitem__(step.state.row, step.state.x),
    )
    moved = float(ends[12] - ends[order])  # the rows that had all the history they want
    points = torch.linspace(0, 1, 400001, dtype=torch.float64) ** 3 * levels[order]
    values = {
        "time": (schedule.time(points) + 1) / 1000,
        "sigma": points / 157.0,
        "angle": points.atan(),
        "asinh": points.asinh(),
    }[variable]
    assert moved == pytest.approx(-float(torch.trapezoid(values**order, points)), rel=1e-6)


def test_constant_noise_is_followed_exactly_by_every_plan() -> None:
    """If e does not change along the path, x moves by (0 - sigma_max) e, whatever the solver."""
    e = torch.tensor([[0.3, -1.2]], dtype=torch.float64)
    for name, plan in plans.candidates(LINEAR, 13).items():
        if plan.is_stochastic or name.startswith("fon"):
            continue
        x = torch.zeros(1, 2, dtype=torch.float64)
        end = sample(lambda x, sigma: e.clone(), plan, x)
        torch.testing.assert_close(end, -plan.sigma_max * e, rtol=1e-9, atol=1e-9, msg=name)


@pytest.mark.parametrize("schedule", [LINEAR, EDM], ids=lambda s: s.name)
def test_data_of_one_point_is_found_by_every_plan(schedule: Schedule) -> None:
    """eps = (x - point) / sigma: the prediction of x_0 is right from the first call on."""
    for nfe in (1, 5, 14, 15):
        for name, plan in plans.candidates(schedule, nfe).items():
            if name.startswith("fon"):
                continue  # it discretises the drift of x_vp, which is not linear in x - point
            x = 2.0 + plan.start(
                torch.randn(3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
            )
            end = sample(
                lambda x, s: (x - 2.0) / s[:, None], plan, x, generator=torch.Generator().manual_seed(1)
            )
            assert float((end - 2.0).abs().max()) < 1e-9 * plan.sigma_max, name


def test_ddim_with_eta_1_is_the_posterior_of_ddpm() -> None:
    """Mean and variance of q(x_s | x_t, x_0) by the product of two Gaussians, not by DDIM's formula."""
    grid = grids.leading(LINEAR, 10)
    for row, (s, s_next) in zip(plans.ddim(LINEAR, grid, eta=1.0).rows[:-1], grid.steps):
        # q(x_s | x_0) = N(x_0, s'^2) and q(x_t | x_s) = N(x_s, s^2 - s'^2): precisions add
        precision = 1 / s_next**2 + 1 / (s**2 - s_next**2)
        x, x_0 = 1.7, -0.4
        mean = (x_0 / s_next**2 + x / (s**2 - s_next**2)) / precision
        assert row.commit is not None
        assert row.commit.x * x + row.commit.history[0] * (x - x_0) / s == pytest.approx(mean, rel=1e-12)
        assert row.commit.noise == pytest.approx(precision**-0.5, rel=1e-12)


def test_ddpm_large_has_the_variance_of_the_forward_step() -> None:
    grid = grids.leading(LINEAR, 1000)
    plan = plans.ddpm(LINEAR, grid, variance="large")
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    for t in (1, 500, 999):
        commit = plan.rows[999 - t].commit
        assert commit is not None
        # back in x_vp: the noise is scaled by sqrt(alpha_bar of the next level)
        assert commit.noise**2 * float(LINEAR.alphas_cumprod[t - 1]) == pytest.approx(
            float(betas[t]), rel=1e-9
        )
    assert plan.rows[-1].commit is not None and plan.rows[-1].commit.noise == 0


@pytest.mark.parametrize(
    "make",
    [
        lambda g: plans.ddim(EDM, g, eta=0.5),
        lambda g: plans.ddpm(EDM, g),
        lambda g: plans.dpm_solver_pp_sde(EDM, g),
        lambda g: plans.edm_stochastic(EDM, g, churn=20.0),
        lambda g: plans.restart(EDM, g, intervals=((0.1, 0.6, 6, 2), (1.0, 3.0, 5, 1))),
        lambda g: plans.repaint(EDM, g, jump_length=5, num_resamples=2),
    ],
)
def test_stochastic_plans_keep_the_distribution(make: Callable[[Grid], SamplingPlan]) -> None:
    """With exact predictions and many steps, mean and standard deviation of the data come out."""
    plan = make(grids.karras(EDM, 300))
    assert plan.is_stochastic
    g = torch.Generator().manual_seed(0)
    x = plan.start(torch.randn(6000, 3, generator=g, dtype=torch.float64))
    end = sample(GAUSSIAN.predict_noise, plan, x, generator=g)
    assert float(end.mean()) == pytest.approx(0.3, abs=0.02)
    assert float(end.std()) == pytest.approx(0.7, abs=0.02)


def test_sde_of_order_1_is_ddpm() -> None:
    grid = grids.karras(LINEAR, 8)
    g1, g2 = torch.Generator().manual_seed(0), torch.Generator().manual_seed(0)
    sde, ddpm = plans.dpm_solver_pp_sde(LINEAR, grid, order=1), plans.ddpm(LINEAR, grid)
    x = sde.start(torch.randn(4, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64))
    a = sample(GAUSSIAN.predict_noise, sde, x, generator=g1)
    torch.testing.assert_close(a, sample(GAUSSIAN.predict_noise, ddpm, x, generator=g2), rtol=1e-9, atol=1e-9)


def test_calls_are_counted_as_published() -> None:
    for s in (1, 2, 3, 4, 10, 50):
        grid = grids.trailing(LINEAR, s)
        counts = {name: DETERMINISTIC[name](LINEAR, grid).nfe for name in DETERMINISTIC}
        assert (
            counts["ddim"]
            == counts["ipndm4"]
            == counts["deis3"]
            == counts["dpmpp3m"]
            == counts["unipc3"]
            == s
        )
        assert counts["spndm"] == counts["plms"] == (s + 1 if s > 1 else 1)
        assert counts["fpndm"] == s + 3 * min(3, s - 1) == plans.fon(LINEAR, grid).nfe
        assert counts["heun"] == 2 * s - 1
    assert (
        plans.edm_stochastic(EDM, grids.karras(EDM, 256), churn=40, churn_min=0.05, churn_max=50).nfe == 511
    )


def test_repaint_spends_the_calls_of_its_authors() -> None:
    """T = 250, jump length 10, 10 resamples: 2410 steps down."""
    assert plans.repaint(LINEAR, grids.trailing(LINEAR, 250)).nfe == 2410


def test_restart_spends_its_calls_in_the_interval() -> None:
    plan = plans.restart(EDM, grids.karras(EDM, 18), intervals=((0.14, 0.30, 3, 2),))
    assert plan.nfe == 35 + 2 * 2 * 2  # two ways down of two Heun steps


def test_spndm_is_plms_of_order_2_and_ddim_is_order_1() -> None:
    grid = grids.trailing(LINEAR, 9)
    assert plans.spndm(LINEAR, grid).rows == plans.plms(LINEAR, grid, order=2).rows
    for plan in (plans.ipndm(LINEAR, grid, order=1), plans.plms(LINEAR, grid, order=1)):
        assert plan.rows == plans.ddim(LINEAR, grid).rows


@pytest.mark.parametrize("nfe", [1, 2, 5, 8, 13, 14, 15])
@pytest.mark.parametrize("schedule", [LINEAR, EDM, schedules.log_snr()], ids=lambda s: s.name)
def test_candidates_spend_exactly_what_they_may(schedule: Schedule, nfe: int) -> None:
    found = plans.candidates(schedule, nfe)
    assert len(found) > 100
    for name, plan in found.items():
        assert (plan.name, plan.nfe) == (name, nfe)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda g: plans.ddim(LINEAR, g, eta=-0.1), "0 <= eta <= 1, got -0.1"),
        (lambda g: plans.ddpm(LINEAR, g, variance="huge"), "'small' or 'large'"),
        (lambda g: plans.deis(LINEAR, g, order=6), "1 .. 5, got 6"),
        (lambda g: plans.deis(LINEAR, g, variable="log"), "variable of"),
        (lambda g: plans.deis(LINEAR, g, scale=2.0), "no effect"),
        (lambda g: plans.ipndm(LINEAR, g, order=5), "1 .. 4"),
        (lambda g: plans.dpm_solver_pp(LINEAR, g, order=4), "1 .. 3"),
        (lambda g: plans.unipc(LINEAR, g, order=0), "1 .. 3"),
        (lambda g: plans.edm_stochastic(EDM, g, churn=0.0), "plans.heun"),
        (lambda g: plans.restart(EDM, g, intervals=((0.3, 0.1, 3, 2),)), "low < high"),
        (lambda g: plans.repaint(EDM, g, jump_length=0), "jump_length >= 1"),
        (lambda g: plans.fon(EDM, g), "one training step"),
        (lambda g: plans.build("heun", EDM, "karras", 5, eta=0.5), "'eta' has no effect"),
        (lambda g: plans.build("diem", EDM, "karras", 5), "did you mean"),
        (lambda g: plans.build("ddim", EDM, "carras", 5), "did you mean 'karras'"),
        (lambda g: plans.build("ddim", EDM, "karras", 0), "num_steps >= 1, got 0"),
        (lambda g: plans.candidates(EDM, 0), "nfe >= 1"),
    ],
)
def test_what_is_undefined_is_refused_by_name(make: Callable[[Grid], object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make(grids.explicit([2.0, 1.0]))


@pytest.mark.parametrize("steps", [100, 250, 1000])
def test_deis_does_not_multiply_rounding_where_its_last_step_is_the_longest(steps) -> None:
    plan = plans.deis(LINEAR, grids.quadratic(LINEAR, steps), order=3)
    weights = plan.rows[-1].commit.history
    assert sum(map(abs, weights)) <= 1e3 * plan.rows[-1].sigma
    assert sum(weights) == pytest.approx(-plan.rows[-1].sigma, rel=1e-6)
    assert (len([w for w in weights if w]) == 4) == (steps == 100)
