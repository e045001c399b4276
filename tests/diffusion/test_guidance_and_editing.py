"""Guidance and editing against closed forms on Gaussians."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from raydiance.diffusion import editing, grids, guidance, mixtures, plans, sample, schedules
from raydiance.diffusion.preconditioning import NoisePredictor
from raydiance.errors import ConfigError

EDM = schedules.edm()
PLAN = plans.deis(EDM, grids.karras(EDM, 40), order=3)


def gaussian(mean: float, std: float) -> NoisePredictor:
    return mixtures.single(mean, std, dim=1).predict_noise


def noise(count: int, dim: int = 1, seed: int = 0) -> Tensor:
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_classifier_free_guidance_of_gaussians_is_a_gaussian() -> None:
    """Equal variances: the guided score is that of a Gaussian at the mean moved by the scale."""
    scale = torch.tensor([1.0, 2.0, 3.0, 0.0], dtype=torch.float64)
    guided = guidance.classifier_free(gaussian(1.0, 0.5), gaussian(0.0, 0.5), scale)
    end = sample(guided, PLAN, PLAN.start(noise(1).expand(4, 1)))
    moved = end - end[3]
    torch.testing.assert_close(moved[:, 0], scale * moved[0, 0], rtol=1e-6, atol=1e-6)
    assert float(moved[0]) == pytest.approx(1.0, abs=0.01)


def test_guidance_in_an_interval_leaves_the_rest_alone() -> None:
    conditional, unconditional = gaussian(1.0, 0.5), gaussian(0.0, 0.5)
    guided = guidance.classifier_free(conditional, unconditional, 4.0, sigma_min=0.3, sigma_max=5.0)
    sigma = torch.tensor([0.1, 1.0, 20.0], dtype=torch.float64)
    x = noise(3)
    eps, plain = guided(x, sigma), conditional(x, sigma)
    assert torch.equal(eps[0], plain[0]) and torch.equal(eps[2], plain[2])
    expected = unconditional(x, sigma)[1] + 4.0 * (plain[1] - unconditional(x, sigma)[1])
    torch.testing.assert_close(eps[1], expected)


def test_loss_guidance_gives_the_posterior_where_x_0_is_certain() -> None:
    """Prior N(0, 1), observation y with variance 0.01: at low noise, eps is that of the exact posterior."""
    y, variance = 0.8, 0.01
    guided = guidance.loss_guided(
        gaussian(0.0, 1.0), lambda x_0: (x_0 - y).square().sum(1) / (2 * variance), 1.0
    )
    sigma = torch.full((5,), 0.01, dtype=torch.float64)
    x = noise(5) * 0.1 + y
    precision = 1 + 1 / variance
    posterior = gaussian(y / variance / precision, precision**-0.5)
    torch.testing.assert_close(guided(x, sigma), posterior(x, sigma), rtol=0.02, atol=1e-3)
    soft = guidance.loss_guided(gaussian(0.0, 1.0), lambda x_0: (x_0 - y).square().sum(1) / 2, 1.0)
    end = sample(soft, PLAN, PLAN.start(noise(2000)))
    assert 0.3 < float(end.mean()) < y  # towards it, not past it
    with torch.inference_mode():
        torch.testing.assert_close(guided(x, sigma), guided(x, sigma))


def test_static_clipping_bounds_the_data_and_keeps_what_is_inside() -> None:
    predict_noise = gaussian(0.0, 1.0)
    clipped = guidance.clip_static(predict_noise, -0.5, 0.5)
    plan = plans.ddim(EDM, grids.karras(EDM, 10))
    end = sample(clipped, plan, plan.start(noise(100)))
    assert float(end.abs().max()) == pytest.approx(0.5, abs=1e-9)
    x, sigma = torch.full((1, 1), 0.3, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    torch.testing.assert_close(clipped(x, sigma), predict_noise(x, sigma))


def test_dynamic_clipping_scales_items_that_reach_out() -> None:
    clipped = guidance.clip_dynamic(lambda x, sigma: torch.zeros_like(x), quantile=0.5)
    x = torch.tensor([[0.1, 0.2, 0.3], [1.0, -2.0, 4.0]], dtype=torch.float64)
    sigma = torch.ones(2, dtype=torch.float64)
    x_0 = x - clipped(x, sigma)
    torch.testing.assert_close(x_0[0], x[0])
    torch.testing.assert_close(x_0[1], torch.tensor([0.5, -1.0, 1.0], dtype=torch.float64))


@pytest.mark.parametrize(
    "make", [lambda g: plans.ddpm(EDM, g), lambda g: plans.ddim(EDM, g), lambda g: plans.repaint(EDM, g)]
)
def test_the_known_region_comes_out_as_it_is(make: Callable[[grids.Grid], plans.SamplingPlan]) -> None:
    mixture = mixtures.smooth()
    known, mask = torch.ones(16, dtype=torch.float64), (torch.arange(16) < 6).double()
    plan = make(grids.karras(EDM, 30))
    completed = editing.known_region(mixture.predict_noise, known, mask)
    end = sample(completed, plan, plan.start(noise(8, 16)), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(end[:, :6], known[:6].expand(8, 6), rtol=0, atol=1e-9)


def correlated(x: Tensor, sigma: Tensor) -> Tensor:
    """Two coordinates of unit variance and correlation 0.8."""
    covariance = torch.tensor([[1.0, 0.8], [0.8, 1.0]], dtype=torch.float64)
    values, vectors = torch.linalg.eigh(covariance)
    rotated = x @ vectors
    return (rotated * sigma[:, None] / (values + sigma[:, None].square())) @ vectors.T


def test_repainting_lets_the_unknown_agree_with_the_known() -> None:
    """Given x_1 = 1.5 the mean of x_2 is 1.2; one pass falls short of it, resampling comes close."""
    known, mask = torch.tensor([1.5, 0.0], dtype=torch.float64), torch.tensor([1.0, 0.0], dtype=torch.float64)
    completed = editing.known_region(correlated, known, mask)
    means = []
    for plan in (
        plans.ddpm(EDM, grids.karras(EDM, 60)),
        plans.repaint(EDM, grids.karras(EDM, 60), jump_length=6, num_resamples=8),
    ):
        g = torch.Generator().manual_seed(0)
        end = sample(completed, plan, plan.start(noise(4000, 2)), generator=g)
        means.append(float(end[:, 1].mean()))
    assert abs(means[1] - 1.2) < 0.5 * abs(means[0] - 1.2)
    assert means[1] == pytest.approx(1.2, abs=0.15)


def test_known_region_keeps_the_marginal_of_the_known_side() -> None:
    """Under DDPM its points are `known` under noise of the row's level: what RePaint draws anew."""
    known = torch.full((1,), 0.7, dtype=torch.float64)
    completed = editing.known_region(gaussian(0.0, 1.0), known, torch.ones(1, dtype=torch.float64))
    plan = plans.ddpm(EDM, grids.karras(EDM, 12))
    seen: list[tuple[float, Tensor]] = []
    sample(
        completed,
        plan,
        known + plan.start(noise(20000)),
        generator=torch.Generator().manual_seed(1),
        callback=lambda step: seen.append((step.sigma, step.query)),
    )
    for sigma, x in seen:
        assert float(x.mean() - 0.7) == pytest.approx(0, abs=0.04 * sigma)
        assert float(x.std()) == pytest.approx(sigma, rel=0.03)


def test_inversion_leads_back() -> None:
    mixture = mixtures.smooth()
    grid = grids.karras(EDM, 30)
    x_0 = mixture.data(PLAN.start(noise(4, 16)), 80.0)
    errors = []
    for refinements in (0, 20):
        x = editing.invert(mixture.predict_noise, grid, x_0, refinements=refinements)
        errors.append(float((sample(mixture.predict_noise, plans.ddim(EDM, grid), x) - x_0).abs().max()))
    assert errors[1] < 1e-3 < errors[0]
    assert 0.7 < float(x.std()) / 80.0 < 1.4


def test_edit_friendly_paths_end_where_they_must_and_carry_an_edit() -> None:
    plan = plans.ddpm(EDM, grids.karras(EDM, 20))
    x_0 = noise(3, seed=3)
    before, after = gaussian(0.0, 1.0), gaussian(2.0, 1.0)
    path = editing.edit_friendly_path(before, plan, x_0, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(editing.replay(before, plan, path), x_0, rtol=0, atol=1e-9)
    torch.testing.assert_close(editing.replay(after, plan, path), x_0 + 2.0, rtol=0, atol=0.01)
    with pytest.raises(ConfigError, match=r"plans\.ddpm"):
        editing.edit_friendly_path(
            before, plans.heun(EDM, grids.karras(EDM, 4)), x_0, generator=torch.Generator()
        )


def test_what_is_undefined_is_refused() -> None:
    predict_noise = gaussian(0.0, 1.0)
    with pytest.raises(ConfigError, match="sigma_min < sigma_max"):
        guidance.classifier_free(predict_noise, predict_noise, 2.0, sigma_min=1.0, sigma_max=0.5)
    with pytest.raises(ConfigError, match="low < high"):
        guidance.clip_static(predict_noise, 1.0, -1.0)
    with pytest.raises(ConfigError, match="quantile"):
        guidance.clip_dynamic(predict_noise, quantile=0.0)
    with pytest.raises(ConfigError, match="refinements >= 0"):
        editing.invert(predict_noise, grids.karras(EDM, 4), noise(2), refinements=-1)
    assert math.isfinite(float(predict_noise(noise(1), torch.ones(1, dtype=torch.float64))))
