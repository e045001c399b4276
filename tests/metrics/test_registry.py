"""The registry of extractors and what it reports, against closed forms and torchmetrics."""

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.inception import InceptionScore
from torchmetrics.image.kid import KernelInceptionDistance

from raydiance.errors import DataError
from raydiance.metrics import (
    FidInception,
    PerceptualDistance,
    ViewNetwork,
    ViewNetworkSpec,
    frechet_distance,
    image_set_scores,
    inception_extractor,
    inception_score,
    jensen_shannon,
    kernel_distance,
    masked_psnr,
    precision_recall,
    psnr,
    read_lpips,
    seeded_extractor,
    trained_extractor,
)
from raydiance.metrics.registry import VIEWS


class Pooled(torch.nn.Module):
    """Sixteen features of uint8 images, as torchmetrics wants an extractor."""

    num_features = 16

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.adaptive_avg_pool2d(images.float()[:, :1] / 255, 4).flatten(1)


def pictures(count: int, seed: int, bias: float = 0.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 4, 4, generator=generator) * (1 - bias) + bias
    return (torch.nn.functional.interpolate(coarse, size=(32, 32)) * 255).round().byte()


@pytest.mark.filterwarnings("ignore:Metric `.*` will save all", "ignore:std.*degrees of freedom")
def test_set_scores_agree_with_torchmetrics_on_the_same_features() -> None:
    real, fake, look = pictures(60, 1), pictures(60, 2, 0.2), Pooled()
    fid = FrechetInceptionDistance(feature=look, input_img_size=(3, 32, 32)).set_dtype(torch.float64)
    kid = KernelInceptionDistance(feature=look, subsets=1, subset_size=60)
    score = InceptionScore(feature=look, splits=1)
    for metric in (fid, kid):
        metric.update(real, real=True)
        metric.update(fake, real=False)
    score.update(fake)
    x, y = look(fake), look(real)
    assert frechet_distance(x, y) == pytest.approx(float(fid.compute()), rel=1e-3)
    ours = kernel_distance(x, y, generator=torch.Generator(), num_subsets=1)
    assert ours.mean == pytest.approx(float(kid.compute()[0]), rel=1e-3, abs=1e-6)
    assert inception_score(x, splits=1)[0] == pytest.approx(float(score.compute()[0]), rel=1e-4)


def test_the_inception_score_runs_from_one_to_the_number_of_classes() -> None:
    assert inception_score(torch.zeros(20, 5))[0] == pytest.approx(1)
    sure = 100 * torch.eye(5).repeat(4, 1)
    assert inception_score(sure, splits=4) == pytest.approx((5, 0))


def test_precision_and_recall_of_sets_that_share_half() -> None:
    generator = torch.Generator().manual_seed(0)
    near, far = torch.randn(200, 2, generator=generator), torch.randn(200, 2, generator=generator) + 100
    found = precision_recall(near, near.flip(0))
    assert found == (1.0, 1.0)
    found = precision_recall(near[:100], torch.cat((near[100:], far)))
    assert found.precision > 0.9 and 0.25 < found.recall < 0.4  # a third of the reference can be reached
    with pytest.raises(ValueError, match="3 neighbours"):
        precision_recall(near[:3], near)


def test_divergence_of_point_sets_is_nothing_or_ln_two() -> None:
    generator = torch.Generator().manual_seed(0)
    left = torch.rand(3, 50, 3, generator=generator) * torch.tensor([0.9, 1, 1]) - torch.tensor([1.0, 0, 0])
    assert jensen_shannon(left, left.flip(0, 1)) == pytest.approx(0, abs=1e-12)
    assert jensen_shannon(left, -left) == pytest.approx(math.log(2))


def test_masked_psnr_looks_at_what_the_mask_keeps() -> None:
    truth, image = torch.zeros(2, 3, 8, 8), torch.zeros(2, 3, 8, 8)
    image[:, :, :4], image[:, :, 4:] = 0.1, 0.5
    upper = torch.zeros(2, 3, 8, 8, dtype=torch.bool)
    upper[:, :, :4] = True
    torch.testing.assert_close(
        masked_psnr(image, truth, upper), torch.full((2,), 20.0).double(), atol=1e-4, rtol=0
    )
    torch.testing.assert_close(masked_psnr(image, truth, upper | ~upper), psnr(image, truth))
    assert bool(masked_psnr(image, truth, upper & ~upper).isnan().all())


def test_lpips_is_the_formula_of_its_paper(tmp_path: Path) -> None:
    """Written out: unit features, squared differences weighted by channel, mean over places, summed."""
    torch.manual_seed(0)
    network = PerceptualDistance()
    for weights in network.lin:
        torch.nn.init.uniform_(weights)
    save_file(
        {name: value.contiguous() for name, value in network.state_dict().items()},
        tmp_path / "lpips.safetensors",
    )
    again = read_lpips(tmp_path / "lpips.safetensors")
    x, y = torch.rand(2, 3, 64, 64), torch.rand(2, 3, 64, 64)
    assert torch.equal(again(x, x), torch.zeros(2))
    torch.testing.assert_close(again(x, y), again(y, x))
    total, a, b = torch.zeros(2), 2 * x - 1, 2 * y - 1
    a, b = ((each - network.shift) / network.scale for each in (a, b))
    for level, layer in enumerate(network.net):
        pool = torch.nn.MaxPool2d(3, 2) if level in (1, 2) else torch.nn.Identity()
        a, b = (layer(pool(each)).clamp(min=0) for each in (a, b))
        cosine = [each / each.norm(dim=1, keepdim=True).clamp(min=1e-10) for each in (a, b)]
        total += torch.einsum("bchw,c->bhw", (cosine[0] - cosine[1]) ** 2, network.lin[level]).mean((1, 2))
    torch.testing.assert_close(again(x, y), total, rtol=1e-4, atol=1e-6)
    save_file({"net.0.weight": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(DataError, match="no weights of PerceptualDistance"):
        read_lpips(tmp_path / "other.safetensors")


def test_scores_have_the_names_that_their_features_allow(tmp_path: Path) -> None:
    images, others = pictures(6, 1).float() / 255, pictures(6, 2).float() / 255
    ours = image_set_scores(seeded_extractor(), images, others)
    assert set(ours) == set(VIEWS) and ours["fd_views"] > 0
    with pytest.raises(DataError, match=r"safetensors\.torch\.save_file"):
        inception_extractor(tmp_path / "none.safetensors")


def test_a_trained_network_is_known_by_its_weights(tmp_path: Path) -> None:
    torch.manual_seed(0)
    small = ViewNetworkSpec(channels=(8,), features=4)
    for name in ("one", "two"):
        save_file(ViewNetwork(small).state_dict(), tmp_path / name)
    one, two = (trained_extractor(small, tmp_path / name) for name in ("one", "two"))
    assert (
        one.identity != two.identity and one.identity == trained_extractor(small, tmp_path / "one").identity
    )
    assert set(image_set_scores(one, *(pictures(6, seed) / 255 for seed in (1, 2)))) == set(VIEWS)
    with pytest.raises(DataError, match="train_extractor"):
        trained_extractor(ViewNetworkSpec(), tmp_path / "one")


def test_the_inception_network_has_the_shape_of_the_published_weights(tmp_path: Path) -> None:
    """23,850,960 parameters: those of the 1000-class network without its side branch, with 1008 classes."""
    torch.manual_seed(0)
    network = FidInception()
    assert sum(parameter.numel() for parameter in network.parameters()) == 23_834_568 + 8 * 2049
    weights = {
        name: value.half() if value.is_floating_point() else value
        for name, value in network.state_dict().items()
    }
    save_file(weights, tmp_path / "inception.safetensors")
    scores = image_set_scores(
        inception_extractor(tmp_path / "inception.safetensors"), *pictures(4, 1).float().div(255).split(2)
    )
    assert set(scores) == {"fid", "kid", "inception_score"} and all(math.isfinite(v) for v in scores.values())
