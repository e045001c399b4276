import pytest
import torch

from raydiance.metrics import ssim
from raydiance.training.losses import (
    density_sparsity,
    pyramid_l1,
    structural_dissimilarity,
    total_variation,
)


def image(seed: int, size: int = 32) -> torch.Tensor:
    coarse = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(coarse, (size, size), mode="bilinear").permute(0, 2, 3, 1)


def test_equal_images_cost_nothing():
    a = image(0)
    assert pyramid_l1(a, a, 3) == 0
    assert structural_dissimilarity(a, a).abs() < 1e-4


def test_pyramid_of_one_level_is_l1_and_more_levels_weigh_the_coarse():
    a, b = image(0), image(1)
    torch.testing.assert_close(pyramid_l1(a, b, 1), (a - b).abs().mean())
    checker = (torch.arange(32)[:, None] + torch.arange(32)) % 2 * 2.0 - 1
    fine = a + 0.1 * checker[None, :, :, None]
    torch.testing.assert_close(pyramid_l1(a, fine, 1), torch.tensor(0.1))
    torch.testing.assert_close(
        pyramid_l1(a, fine, 2), torch.tensor(0.05)
    )  # averages away at the second level


def test_structure_follows_the_published_similarity():
    a = image(0)
    noisy = [
        a + s * torch.randn(a.shape, generator=torch.Generator().manual_seed(1)) for s in (0.02, 0.1, 0.3)
    ]
    ours = [1 - structural_dissimilarity(n, a).item() for n in noisy]
    published = [ssim(n.permute(0, 3, 1, 2), a.permute(0, 3, 1, 2)).mean().item() for n in noisy]
    assert ours[0] > ours[1] > ours[2]
    assert ours == pytest.approx(published, abs=0.1)


def test_penalties_of_a_solid_half():
    grid = torch.zeros(1, 4, 4, 4, 4)
    grid[:, :2, ..., 0] = 1e4  # opaque, black
    assert density_sparsity(grid, 0.5).item() == pytest.approx(0.5)
    # One face of three along x; density and black colour: one channel of four changes by 1.
    assert total_variation(grid, 0.5).item() == pytest.approx(1 / 3 / 4)


def test_gradients_stay_finite_at_the_extremes():
    a = image(0).requires_grad_()
    flat = torch.ones_like(a)
    (gradient,) = torch.autograd.grad(structural_dissimilarity(a, flat) + pyramid_l1(a, flat, 3), a)
    assert gradient.isfinite().all()
    grid = torch.full((1, 4, 4, 4, 4), 1e5, requires_grad=True)
    (gradient,) = torch.autograd.grad(total_variation(grid, 0.1) + density_sparsity(grid, 0.1), grid)
    assert gradient.isfinite().all()
