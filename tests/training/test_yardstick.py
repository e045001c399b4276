"""The error of a denoiser over noise levels that are the same for all."""

import pytest
import torch
from torch import Tensor

from raydiance.diffusion.preconditioning import expand
from raydiance.training.yardstick import relative_error

X_0 = torch.randn(32, 3, 16, generator=torch.Generator().manual_seed(0))


def gaussian(spread: float):  # type: ignore[no-untyped-def]
    """The best denoiser of white Gaussian data with mean 0."""
    return lambda x, sigma: x * expand(spread**2 / (spread**2 + sigma**2), x)


@pytest.mark.parametrize("spread", [1.0, 7.0])
def test_the_best_denoiser_of_white_data_has_error_one_at_any_scale(spread: float) -> None:
    assert relative_error(gaussian(spread), spread * X_0) == pytest.approx(1.0, rel=0.05)


def test_who_knows_the_data_is_below_and_who_does_nothing_far_above() -> None:
    def mean(x: Tensor, sigma: Tensor) -> Tensor:
        return torch.zeros_like(x)

    assert relative_error(lambda x, sigma: X_0, X_0) == 0
    errors = [relative_error(denoise, X_0) for denoise in (gaussian(1.0), gaussian(2.0), mean)]
    assert errors[0] < errors[1] < errors[2]
    assert errors[0] == relative_error(gaussian(1.0), X_0), "the same noise each time"
