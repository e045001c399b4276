"""The pyramid in VGG-19's features, with random weights of its shape: nothing is downloaded."""

import hashlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from raydiance.errors import ArtifactError, DataError
from raydiance.metrics import VggPyramid, read_vgg
from raydiance.metrics.vgg import MEAN, STD, shrunk
from raydiance.storage import PretrainedSpec, pretrained_file

FIRST = (0, 5, 10, 19, 28)  # the first convolution of each level, as the weights are commonly numbered
DEPTHS = (2, 2, 4, 4, 1)


@pytest.fixture(scope="module")
def network() -> VggPyramid:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return VggPyramid().requires_grad_(False)


def images(count: int, size: int, seed: int) -> torch.Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


def test_it_has_the_shape_of_vgg_19_up_to_its_thirteenth_convolution(network: VggPyramid) -> None:
    """20,024,384 weights in all convolutions of the published network; the last three are not needed."""
    weights = sum(each.numel() for each in network.parameters())
    assert weights == 20_024_384 - 3 * (512 * 512 * 9 + 512)
    assert [name for name in network.state_dict() if name.endswith("weight")][-1] == "features.28.weight"


def test_the_distance_is_the_formula_written_out(network: VggPyramid) -> None:
    weights, total = network.state_dict(), 0.0
    mean, std = (torch.tensor(each)[:, None, None] for each in (MEAN, STD))
    pair = images(1, 32, 1), images(1, 32, 2)
    for scale in (1.0, 0.5, 0.25):
        a, b = ((shrunk(each, scale) - mean) / std for each in pair)
        for level, (first, depth) in enumerate(zip(FIRST, DEPTHS)):
            if level and min(a.shape[-2:]) < 2:
                break  # at a quarter, 8 x 8, there is no fifth level
            a, b = (F.max_pool2d(each, 2) if level else each for each in (a, b))
            for number in range(depth):
                name = f"features.{first + 2 * number}"
                a, b = (
                    F.conv2d(each, weights[f"{name}.weight"], weights[f"{name}.bias"], padding=1).clamp(min=0)
                    for each in (a, b)
                )
                total += float((a - b).abs().mean()) if number == 0 else 0.0
    assert float(network(*pair)) == pytest.approx(total, rel=1e-4)


def test_it_is_a_distance_and_its_gradient_points_home(network: VggPyramid) -> None:
    a, b = images(2, 16, 1), images(2, 16, 2)
    assert float(network(a, a)) == 0
    torch.testing.assert_close(network(a, b), network(b, a))
    torch.testing.assert_close(network(a.flip(0), b.flip(0)), network(a, b))  # a mean over images
    start = a.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(network(start, b), start)
    assert bool(gradient.isfinite().all())
    assert float(network(a - 0.1 * gradient / gradient.norm(), b)) < float(network(a, b))
    assert float(network(images(1, 3, 1), images(1, 3, 2))) > 0  # too small for all but two levels


def test_shrinking_keeps_what_is_even_and_moves_with_the_image() -> None:
    even = torch.full((1, 3, 16, 16), 0.3)
    for scale, size in ((1.0, 16), (0.5, 8), (0.25, 4)):
        torch.testing.assert_close(shrunk(even, scale), torch.full((1, 3, size, size), 0.3))
    wide = images(1, 48, 3)
    whole, moved = shrunk(wide, 0.25), shrunk(wide[..., 4:, 4:], 0.25)
    torch.testing.assert_close(whole[..., 3:-2, 3:-2], moved[..., 2:-2, 2:-2])
    fine = 0.5 + 0.5 * ((torch.arange(32)[:, None] + torch.arange(32)) % 2 * 2.0 - 1).expand(1, 3, 32, 32)
    assert float((shrunk(fine, 0.25)[..., 2:-2, 2:-2] - 0.5).abs().max()) < 0.01  # blurred, not aliased


def test_weights_come_from_a_file_that_may_hold_more(network: VggPyramid, tmp_path: Path) -> None:
    kept = {name: value.half() for name, value in network.state_dict().items()}
    path = tmp_path / "vgg19.safetensors"
    save_file(kept | {"classifier.6.bias": torch.zeros(10)}, path)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    read = read_vgg(pretrained_file(PretrainedSpec(file=str(path), sha256=sha256)))
    assert torch.equal(read.features[28].weight, kept["features.28.weight"].float())
    assert not any(each.requires_grad for each in read.parameters())
    with pytest.raises(ArtifactError, match=f"expected SHA-256 {'0' * 64}, found {sha256}"):
        pretrained_file(PretrainedSpec(file=str(path), sha256="0" * 64))
    with pytest.raises(ArtifactError, match="no such file"):
        pretrained_file(PretrainedSpec(file=str(tmp_path / "none"), sha256=sha256))
    with pytest.raises(ValueError, match="64 hex digits"):
        PretrainedSpec(file=str(path), sha256="sha256:12")
    del kept["features.28.weight"]
    save_file(kept, path)
    with pytest.raises(DataError, match="no weights of VggPyramid"):
        read_vgg(path)
