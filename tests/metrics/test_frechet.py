"""The Frechet and kernel distances against closed forms, and the view features against degradations."""

from functools import lru_cache

import numpy as np
import pytest
import scipy.linalg
import torch

from raydiance.metrics import (
    FEATURES,
    frechet_distance,
    frechet_spread,
    gaussian_frechet_distance,
    kernel_distance,
    view_features,
)


def gaussian(mean: torch.Tensor, covariance: torch.Tensor, count: int, seed: int) -> torch.Tensor:
    """Samples whose mean and covariance (n - 1) are exactly the given ones."""
    x = torch.randn(count, len(mean), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    x = x - x.mean(0)
    whiten = torch.linalg.inv(torch.linalg.cholesky(x.T @ x / (count - 1)))
    return mean + x @ whiten.T @ torch.linalg.cholesky(covariance).T


def random_covariance(size: int, seed: int) -> torch.Tensor:
    root = torch.randn(size, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return root @ root.T + 0.1 * torch.eye(size, dtype=torch.float64)


def test_diagonal_gaussians_have_the_distance_of_their_standard_deviations() -> None:
    mean_x, mean_y = torch.tensor([0.0, 1.0, -2.0]).double(), torch.tensor([1.0, 1.0, 0.0]).double()
    std_x, std_y = torch.tensor([1.0, 2.0, 3.0]).double(), torch.tensor([2.0, 2.0, 0.5]).double()
    expected = float((mean_x - mean_y).square().sum() + (std_x - std_y).square().sum())
    x, y = gaussian(mean_x, torch.diag(std_x**2), 50, 1), gaussian(mean_y, torch.diag(std_y**2), 70, 2)
    assert frechet_distance(x, y) == pytest.approx(expected, rel=1e-10)


def test_full_covariances_agree_with_the_matrix_square_root_of_the_product() -> None:
    cx, cy = random_covariance(8, 3), random_covariance(8, 4)
    mean = torch.linspace(-1, 1, 8, dtype=torch.float64)
    root = scipy.linalg.sqrtm((cx @ cy).numpy())
    expected = float(mean @ mean) + np.trace(cx.numpy() + cy.numpy() - 2 * root.real)
    assert gaussian_frechet_distance(mean, cx, torch.zeros_like(mean), cy) == pytest.approx(
        expected, rel=1e-9
    )


def test_equal_sets_have_distance_zero_even_when_their_covariance_is_singular() -> None:
    few = torch.randn(5, 64, generator=torch.Generator().manual_seed(0))
    assert frechet_distance(few, few) == pytest.approx(0.0, abs=1e-6)


def test_the_distance_is_symmetric_and_blind_to_rotations_shifts_and_order() -> None:
    x = gaussian(torch.ones(6).double(), random_covariance(6, 5), 40, 6)
    y = gaussian(torch.zeros(6).double(), random_covariance(6, 7), 30, 8)
    distance = frechet_distance(x, y)
    rotation, _ = torch.linalg.qr(random_covariance(6, 9))
    assert frechet_distance(y, x) == pytest.approx(distance, rel=1e-9)
    assert frechet_distance(x @ rotation + 3, y @ rotation + 3) == pytest.approx(distance, rel=1e-9)
    assert frechet_distance(x.flip(0), y) == pytest.approx(distance, rel=1e-12)


def test_scaling_the_features_scales_the_distance_by_its_square() -> None:
    x, y = torch.randn(40, 5).double(), 1 + torch.randn(40, 5).double()
    assert frechet_distance(10 * x, 10 * y) == pytest.approx(100 * frechet_distance(x, y), rel=1e-9)


def test_features_that_are_not_finite_are_refused() -> None:
    x = torch.ones(4, 3)
    x[0, 0] = torch.nan
    with pytest.raises(ValueError, match="NaN"):
        frechet_distance(x, torch.ones(4, 3))
    with pytest.raises(ValueError, match="at least 2"):
        frechet_distance(torch.ones(1, 3), torch.ones(4, 3))


def test_the_kernel_distance_of_the_whole_sets_is_the_textbook_sum() -> None:
    x, y = torch.randn(6, 3).double(), torch.randn(6, 3).double() + 1
    total = 0.0
    for i in range(6):
        for j in range(6):
            if i != j:
                total += float((x[i] @ x[j] / 3 + 1) ** 3 + (y[i] @ y[j] / 3 + 1) ** 3) / 30
            total -= 2 * float((x[i] @ y[j] / 3 + 1) ** 3) / 36
    result = kernel_distance(x, y, generator=torch.Generator().manual_seed(0), num_subsets=3)
    assert result.mean == pytest.approx(total, rel=1e-9)
    assert result.std == pytest.approx(0.0, abs=1e-9)


def test_the_kernel_distance_is_unbiased_for_equal_distributions_and_sees_a_shift() -> None:
    generator = torch.Generator().manual_seed(1)
    x, y = torch.randn(2, 400, 4, generator=generator)
    same = kernel_distance(x, y, generator=generator, subset_size=50, num_subsets=200)
    shifted = kernel_distance(x, y + 0.5, generator=generator, subset_size=50, num_subsets=200)
    assert abs(same.mean) < 0.1 * shifted.mean


def checkers(count: int, seed: int) -> torch.Tensor:
    """Images of coloured boxes on white, [count, 3, 64, 64]: a stand-in for views of objects."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.ones(count, 3, 64, 64)
    for image in images:
        for _ in range(4):
            x, y, width, height = torch.randint(6, 28, (4,), generator=generator).tolist()
            image[:, y : y + height, x : x + width] = torch.rand(3, 1, 1, generator=generator)
    return images


def test_features_are_the_same_in_every_process_and_do_not_touch_the_global_generator() -> None:
    before = torch.random.get_rng_state()
    images = checkers(3, 0)
    first, second = view_features()(images), view_features()(images)
    assert torch.equal(first, second)
    assert first.shape == (3, FEATURES)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.testing.assert_close(view_features()(images[1:2]), first[1:2], rtol=1e-4, atol=1e-5)


@lru_cache
def features_of_the_reference() -> torch.Tensor:
    return view_features()(checkers(160, 1))


@pytest.mark.parametrize("degradation", ["blur", "noise", "mix", "colour", "negative"])
def test_the_distance_grows_with_every_degradation(degradation: str) -> None:
    features, reference = view_features(), features_of_the_reference()
    images = checkers(160, 2)
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(3))
    blurred = torch.nn.functional.avg_pool2d(images, 9, stride=1, padding=4, count_include_pad=False)
    other = {
        "blur": blurred,
        "noise": images + 0.3 * noise,
        "mix": 0.5 * (images + images.roll(1, 0)),
        "colour": images[:, [2, 2, 2]],
        "negative": 1 - images,
    }[degradation]
    scores = [
        frechet_distance(features(images + level * (other - images)), reference)
        for level in (0.0, 0.5, 0.75, 1.0)
    ]
    assert scores == sorted(scores)
    assert scores[-1] > 1.5 * scores[0]


def test_the_bootstrap_spread_is_that_of_fresh_draws() -> None:
    """Its theorem: resampling one set varies the distance about as much as drawing the set anew."""
    g = torch.Generator().manual_seed(0)
    reference = torch.randn(4000, 4, generator=g, dtype=torch.float64)
    sets = [0.5 + torch.randn(400, 4, generator=g, dtype=torch.float64) for _ in range(40)]
    fresh = float(torch.tensor([frechet_distance(each, reference) for each in sets]).std())
    spreads = torch.tensor([frechet_spread(each, reference) for each in sets[:8]])
    assert 0.75 < float(spreads.mean()) / fresh < 1.3
