"""The path along principal directions: before training it is the posterior mean of normal data."""

import pytest
import torch

from raydiance.diffusion.preconditioning import EDM
from raydiance.models import Condition, GaussianPath, UNet, UNetSpec
from raydiance.training.randomness import seeded

SPEC = UNetSpec(
    dims=1, in_channels=3, out_channels=3, multipliers=(), attention_levels=(), resolution=4, global_width=16,
    num_heads=2, basis=5, embedding_dim=16, token_dim=6,
)  # fmt: skip


def fitted(items: torch.Tensor, sigma_data: float = 1.7) -> tuple[UNet, GaussianPath]:
    with seeded(1):
        network = UNet(SPEC)
    assert isinstance(network.whole, GaussianPath)
    network.whole.fit(items.flatten(1), sigma_data)
    return network, network.whole


def items(count: int) -> torch.Tensor:
    """[count, 3, 4] with directions of unlike deviation, off the origin."""
    generator = torch.Generator().manual_seed(3)
    mixed = torch.randn(count, 12, generator=generator) @ torch.diag(2.0 ** -torch.arange(12.0) * 40)
    return (mixed + 5).reshape(count, 3, 4)


@pytest.mark.parametrize("sigma", [0.01, 1.0, 30.0, 400.0])
@pytest.mark.parametrize("count", [40, 4])  # more and fewer items than directions
def test_untrained_it_denoises_as_the_gaussian_of_the_data(sigma, count):
    data = items(count)
    network, path = fitted(data)
    x = items(6) + sigma * torch.randn(6, 3, 4, generator=torch.Generator().manual_seed(7))
    level = torch.full((6,), sigma)
    with torch.no_grad():
        found = EDM(1.7).denoise(network, x, level).flatten(1).double()
    basis, mean = path.basis.double(), path.mean.double()
    rest = torch.eye(12, dtype=torch.float64) - basis.T @ basis
    covariance = basis.T @ torch.diag(path.variances.double()) @ basis + path.rest.double() * rest
    gain = covariance @ torch.linalg.inv(covariance + sigma**2 * torch.eye(12))
    expected = mean + (x.flatten(1).double() - mean) @ gain.T
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=2e-3)


def test_the_covariance_is_that_of_the_items_as_far_as_there_are_directions():
    data = items(40)
    _, path = fitted(data)
    expected = torch.linalg.eigvalsh(torch.cov(data.flatten(1).T.double())).flip(0)
    torch.testing.assert_close(path.variances.double(), expected[:5], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(path.rest.double(), expected[5:].mean()[None], rtol=1e-2, atol=1e-5)
    torch.testing.assert_close(path.basis @ path.basis.T, torch.eye(5), atol=1e-5, rtol=0)


@pytest.mark.parametrize("sigma", [0.1, 5.0, 200.0])
def test_of_normal_data_each_direction_errs_by_its_own_unit(sigma):
    data = items(2000)
    network, path = fitted(data)
    noise = torch.randn(2000, 3, 4, generator=torch.Generator().manual_seed(8))
    with torch.no_grad():
        loss = EDM(1.7).loss(
            network,
            data,
            torch.full((2000,), sigma),
            noise,
            error=lambda residual, level: path.error(residual.flatten(1), level),
        )
    assert float(loss.mean()) == pytest.approx(1.0, rel=0.05)


def test_what_is_learned_moves_only_along_the_directions_and_hears_tokens():
    network, path = fitted(items(40))
    with seeded(2):
        for name, parameter in network.named_parameters():
            if parameter.requires_grad:
                torch.nn.init.normal_(parameter, std=0.2, generator=torch.Generator().manual_seed(len(name)))
    x, level = items(4), torch.full((4,), 0.3)
    tokens = torch.randn(4, 2, 6, generator=torch.Generator().manual_seed(9))
    with torch.no_grad():
        start = fitted(items(40))[0](x, level)
        moved = [
            (network(x, level, condition=told) - start).flatten(1)
            for told in (None, Condition(tokens=tokens))
        ]
    assert (moved[0] - moved[1]).abs().max() > 1e-3
    for change in moved:
        torch.testing.assert_close(change @ path.basis.T @ path.basis, change, atol=1e-3, rtol=1e-3)
