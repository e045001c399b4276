"""PSNR and SSIM against their closed forms and against scikit-image."""

import math

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from raydiance.metrics import psnr, ssim


def random_pair(height: int = 40, width: int = 33) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    image = torch.rand(2, 3, height, width, generator=generator)
    noisy = (image + 0.1 * torch.randn(image.shape, generator=generator)).clamp(0, 1)
    return image, noisy


def test_a_constant_error_has_the_psnr_of_its_logarithm() -> None:
    reference = torch.full((2, 3, 4, 5), 0.25)
    image = reference + torch.tensor([0.1, 0.01]).view(2, 1, 1, 1)
    assert psnr(image, reference).tolist() == pytest.approx([20.0, 40.0], abs=1e-4)


def test_psnr_of_equal_images_is_infinite() -> None:
    image, _ = random_pair()
    assert psnr(image, image).tolist() == [math.inf, math.inf]


def test_psnr_depends_only_on_the_error_relative_to_the_range() -> None:
    image, noisy = random_pair()
    torch.testing.assert_close(psnr(255 * image, 255 * noisy, data_range=255.0), psnr(image, noisy))


def test_psnr_agrees_with_scikit_image_per_image() -> None:
    image, noisy = random_pair()
    theirs = [
        peak_signal_noise_ratio(a.numpy(), b.numpy(), data_range=1.0)
        for a, b in zip(image, noisy, strict=True)
    ]
    assert psnr(noisy, image).tolist() == pytest.approx(theirs, rel=1e-6)


def test_ssim_of_equal_images_is_one_and_of_opposite_images_negative() -> None:
    image, _ = random_pair()
    torch.testing.assert_close(ssim(image, image), torch.ones(2, dtype=torch.float64))
    assert float(ssim(image, 1 - image).max()) < 0


def test_ssim_of_two_constants_is_its_luminance_term() -> None:
    a, b, c1 = 0.2, 0.6, 0.01**2
    value = ssim(torch.full((1, 1, 16, 16), a), torch.full((1, 1, 16, 16), b))
    assert float(value) == pytest.approx((2 * a * b + c1) / (a * a + b * b + c1), rel=1e-6)


def test_ssim_agrees_with_scikit_image() -> None:
    image, noisy = random_pair()
    theirs = [
        structural_similarity(
            a.permute(1, 2, 0).double().numpy(),
            b.permute(1, 2, 0).double().numpy(),
            channel_axis=2,
            data_range=1.0,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
        )
        for a, b in zip(image, noisy, strict=True)
    ]
    np.testing.assert_allclose(ssim(image, noisy).numpy(), theirs, rtol=1e-9)


def test_metrics_are_symmetric_and_blind_to_mirrors() -> None:
    image, noisy = random_pair()
    for metric in (psnr, ssim):
        torch.testing.assert_close(metric(image, noisy), metric(noisy, image))
        torch.testing.assert_close(metric(image.flip(-1), noisy.flip(-1)), metric(image, noisy))


def test_shapes_that_cannot_be_compared_are_refused() -> None:
    image, _ = random_pair()
    with pytest.raises(ValueError, match="one shape"):
        psnr(image, image[:1])
    with pytest.raises(ValueError, match="at least 11x11"):
        ssim(image[..., :10, :10], image[..., :10, :10])
