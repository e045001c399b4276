import pytest
import torch

from raydiance.data.latents import RobustStatistics
from raydiance.errors import DataError


def latents(seed: int = 0) -> torch.Tensor:
    normal = torch.randn(50, 3, 4, 4, 4, generator=torch.Generator().manual_seed(seed))
    return normal * torch.tensor([1.0, 5.0, 0.2]).view(3, 1, 1, 1) + torch.tensor([0.0, -2.0, 7.0]).view(
        3, 1, 1, 1
    )


@pytest.mark.parametrize("mode", ["robust", "moments"])
@pytest.mark.parametrize("per_channel", [True, False])
def test_denormalise_undoes_normalise(mode, per_channel):
    x = latents()
    statistics = RobustStatistics.fit(x, mode, per_channel=per_channel)
    assert statistics.center.shape == ((3,) if per_channel else (1,))
    torch.testing.assert_close(statistics.denormalise(statistics.normalise(x)), x, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("mode", ["robust", "moments"])
def test_normal_latents_get_unit_scale(mode):
    normalised = RobustStatistics.fit(latents(), mode).normalise(latents(1))
    means, deviations = (
        normalised.transpose(0, 1).flatten(1).mean(1),
        normalised.transpose(0, 1).flatten(1).std(1),
    )
    torch.testing.assert_close(means, torch.zeros(3), atol=0.1, rtol=0)
    torch.testing.assert_close(deviations, torch.ones(3), atol=0.1, rtol=0)


def test_outliers_move_moments_but_not_quartiles():
    clean, dirty = latents(), latents()
    dirty[0, :, 0, 0, 0] = 1e7
    robust = RobustStatistics.fit(dirty).scale / RobustStatistics.fit(clean).scale
    moments = RobustStatistics.fit(dirty, "moments").scale / RobustStatistics.fit(clean, "moments").scale
    torch.testing.assert_close(robust, torch.ones(3), atol=0.01, rtol=0)
    assert (moments > 1e4).all()


def test_quartiles_are_those_of_the_library():
    x = latents()[:, :1]
    q = torch.quantile(x.flatten().double(), torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64))
    statistics = RobustStatistics.fit(x)
    assert statistics.center.item() == pytest.approx(q[1].item(), rel=1e-6)
    assert statistics.scale.item() == pytest.approx(0.7413 * (q[2] - q[0]).item(), rel=1e-6)


def test_saved_is_loaded(tmp_path):
    statistics = RobustStatistics.fit(latents())
    statistics.save(tmp_path / "statistics.safetensors")
    loaded = RobustStatistics.load(tmp_path / "statistics.safetensors")
    assert torch.equal(loaded.center, statistics.center) and torch.equal(loaded.scale, statistics.scale)


def test_a_channel_that_does_not_vary_is_named():
    x = latents()
    x[:, 1] = 3.0
    with pytest.raises(DataError, match=r"channels \[1\]"):
        RobustStatistics.fit(x)
