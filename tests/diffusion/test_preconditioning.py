"""Every kind of network, given the exact answer in its own terms, predicts the exact noise; losses and
weights.
"""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from raydiance.diffusion import losses, mixtures, preconditioning, schedules
from raydiance.diffusion.preconditioning import EDM, Clean, Epsilon, Flow, Preconditioning, Velocity, expand
from raydiance.errors import ConfigError

LINEAR = schedules.linear()
KINDS: list[Preconditioning] = [
    EDM(0.5),
    Epsilon(LINEAR),
    preconditioning.discrete_epsilon("linear"),
    Clean(LINEAR),
    Velocity(LINEAR),
    Flow(),
]
EACH_KIND = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: type(kind).__name__)
SIGMAS = torch.tensor([0.002, 0.05, 0.5, 3.0, 80.0, 150.0], dtype=torch.float64)


def exact_network(kind: Preconditioning, mixture: mixtures.Mixture, sigma: Tensor) -> Any:
    """F = to_x_0 E[x_0 | x] + to_noise E[noise | x], as both are linear in F."""

    def network(scaled: Tensor, c_noise: Tensor, /, *, condition: Any = None) -> Tensor:
        s = kind.scalars(sigma)
        torch.testing.assert_close(c_noise, s.c_noise)
        x = scaled / expand(s.c_in, scaled)
        noise = mixture.predict_noise(x, sigma)
        x_0 = x - expand(sigma, x) * noise
        return expand(s.to_x_0, x) * x_0 + expand(s.to_noise, x) * noise

    return network


@EACH_KIND
def test_the_exact_network_predicts_the_exact_noise(kind: Preconditioning) -> None:
    mixture = mixtures.smooth()
    noise = torch.randn(6, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = mixture.means[:6] + SIGMAS[:, None] * noise
    network = exact_network(kind, mixture, SIGMAS)
    expected = mixture.predict_noise(x, SIGMAS)
    torch.testing.assert_close(kind.noise_predictor(network)(x, SIGMAS), expected, rtol=1e-8, atol=1e-10)
    x_0 = x - SIGMAS[:, None] * expected
    torch.testing.assert_close(kind.denoise(network, x, SIGMAS), x_0, rtol=1e-6, atol=1e-7)


@EACH_KIND
def test_the_loss_is_zero_for_the_target_and_weights_are_of_x_0(kind: Preconditioning) -> None:
    g = torch.Generator().manual_seed(1)
    x_0, noise, wrong = (torch.randn(6, 2, 3, 3, generator=g, dtype=torch.float64) for _ in range(3))
    s = kind.scalars(SIGMAS)
    target = expand(s.to_x_0, x_0) * x_0 + expand(s.to_noise, x_0) * noise
    assert float(kind.loss(lambda x, t, condition=None: target, x_0, SIGMAS, noise).abs().max()) < 1e-20

    def network(x: Tensor, t: Tensor, /, *, condition: Any = None) -> Tensor:
        return wrong

    plain = kind.loss(network, x_0, SIGMAS, noise)
    assert plain.shape == (6,)
    torch.testing.assert_close(plain, (wrong - target).square().mean((1, 2, 3)))
    weighted = kind.loss(network, x_0, SIGMAS, noise, weight=losses.edm_weight)
    x = x_0 + expand(SIGMAS, x_0) * noise
    error = (kind.denoise(network, x, SIGMAS) - x_0).square().mean((1, 2, 3))
    torch.testing.assert_close(weighted, losses.edm_weight(SIGMAS) * error, rtol=1e-6, atol=1e-9)


def test_edm_follows_table_1() -> None:
    s, data = torch.tensor([0.7], dtype=torch.float64), 0.5
    scalars = EDM(data).scalars(s)
    total = 0.7**2 + data**2
    c_skip, c_out = data**2 / total, 0.7 * data / math.sqrt(total)
    assert float(scalars.c_in) == pytest.approx(1 / math.sqrt(total))
    assert float(scalars.c_noise) == pytest.approx(math.log(0.7) / 4)
    # D = c_skip x + c_out F and eps = (x - D) / sigma
    assert float(scalars.skip) == pytest.approx((1 - c_skip) / 0.7)
    assert float(scalars.out) == pytest.approx(-c_out / 0.7)
    weight = losses.edm_weight(s, data)
    assert float(weight) == pytest.approx(1 / c_out**2)


def test_edm_gives_the_network_unit_variance_inputs_and_targets() -> None:
    g = torch.Generator().manual_seed(0)
    for sigma in (0.01, 1.0, 50.0):
        s = EDM(0.5).scalars(torch.tensor([sigma]))
        x_0, noise = 0.5 * torch.randn(100_000, generator=g), torch.randn(100_000, generator=g)
        assert float((s.c_in * (x_0 + sigma * noise)).std()) == pytest.approx(1, abs=0.02)
        assert float((s.to_x_0 * x_0 + s.to_noise * noise).std()) == pytest.approx(1, abs=0.02)


def test_velocity_and_flow_are_what_their_authors_call_so() -> None:
    sigma = torch.tensor([1.7], dtype=torch.float64)
    alpha = 1 / math.sqrt(1 + 1.7**2)
    v, flow = Velocity(LINEAR).scalars(sigma), Flow().scalars(sigma)
    assert (float(v.to_x_0), float(v.to_noise)) == pytest.approx((-math.sqrt(1 - alpha**2), alpha))
    assert (float(flow.to_x_0), float(flow.to_noise)) == (-1, 1)
    t = float(flow.c_noise)
    assert float(flow.c_in) == pytest.approx(1 - t) and t / (1 - t) == pytest.approx(1.7)


def test_the_label_of_a_discrete_network_is_its_training_step() -> None:
    t = torch.arange(1000, dtype=torch.float64)
    label = Epsilon(LINEAR).scalars(LINEAR.sigma(t).float()).c_noise
    assert float((label - t).abs().max()) < 0.01


@EACH_KIND
def test_half_precision_points_stay_finite(kind: Preconditioning) -> None:
    x = torch.randn(6, 3, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    predict_noise = kind.noise_predictor(lambda x, t, condition=None: x)
    eps = predict_noise(x, SIGMAS.float())
    assert eps.dtype == torch.bfloat16 and bool(eps.isfinite().all())


def test_noise_levels_for_training() -> None:
    g = torch.Generator().manual_seed(0)
    sigma = losses.log_normal_sigma(torch.randn(100_000, generator=g))
    assert float(sigma.log().mean()) == pytest.approx(-1.2, abs=0.02)
    assert float(sigma.log().std()) == pytest.approx(1.2, abs=0.02)
    u = torch.rand(100_000, generator=g)
    steps = LINEAR.time(losses.discrete_sigma(LINEAR, u).double()).round()
    assert (float(steps.min()), float(steps.max())) == (0, 999)
    uniform = losses.uniform_time_sigma(schedules.edm(), u)
    assert 0.002 <= float(uniform.min()) < 0.0021 and 79 < float(uniform.max()) <= 80
    spread = losses.stratified(torch.rand(64, generator=g), torch.arange(64), 64)
    assert torch.equal((spread * 64).floor(), torch.arange(64.0))


def test_weights() -> None:
    sigma = torch.tensor([0.1, 1.0, 10.0])
    assert losses.uniform_weight(sigma).tolist() == [1, 1, 1]
    assert losses.snr_weight(sigma).tolist() == pytest.approx([100, 1, 0.01])
    assert losses.min_snr_weight(sigma).tolist() == pytest.approx([5, 1, 0.01])
    assert losses.power_weight(sigma, 2.0).tolist() == pytest.approx([1.01**-2, 0.25, 101**-2])


def test_what_is_undefined_is_refused() -> None:
    with pytest.raises(ConfigError, match="sigma_data > 0"):
        EDM(0.0)
    with pytest.raises(ConfigError, match="count >= 1"):
        losses.stratified(torch.rand(2), torch.arange(2), 0)


def test_a_denoiser_is_what_its_file_says() -> None:
    sigma = torch.tensor([0.02, 0.7, 30.0])
    edm = preconditioning.from_plain({"sigma_data": 0.5, "classes": []})
    assert edm == EDM(0.5)
    discrete = preconditioning.from_plain({"schedule": "cosine", "num_train_steps": 500})
    assert isinstance(discrete, Epsilon)
    steps = schedules.cosine(500).time(sigma)
    torch.testing.assert_close(discrete.scalars(sigma).c_noise, (2 * steps / 500).float())
    for plain, message in (
        ({}, "needs sigma_data, or schedule"),
        ({"schedule": "cosin", "num_train_steps": 10}, "there is linear, quadratic, cosine"),
    ):
        with pytest.raises(ConfigError, match=message):
            preconditioning.from_plain(plain)
