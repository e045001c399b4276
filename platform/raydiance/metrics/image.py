"""How near an image is to its reference: PSNR and SSIM, per image.

Images are [B, C, H, W] with values in [0, data_range]; the colours are compared as they are encoded (sRGB).
"""

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["masked_psnr", "psnr", "ssim"]

WINDOW = 11  # pixels, and the width of its Gaussian in pixels: Wang et al. 2004, section III-C
WINDOW_SIGMA = 1.5
K1, K2 = 0.01, 0.03


def psnr(image: Tensor, reference: Tensor, *, data_range: float = 1.0) -> Tensor:
    """Peak signal-to-noise ratio of each image in dB, float64 [B]; infinite where the two are equal.

    It is per image: the mean over a set is a mean of decibels, as papers on view synthesis print it.
    """
    _check(image, reference)
    error = (image.double() - reference.double()).square().flatten(1).mean(1)
    return 10.0 * torch.log10(data_range**2 / error)


def masked_psnr(image: Tensor, reference: Tensor, mask: Tensor, *, data_range: float = 1.0) -> Tensor:
    """PSNR of each image over the values that the mask (bool, of the images' shape) keeps, in dB, float64 [B].

    NaN where it keeps none, infinite where those kept are equal.
    """
    _check(image, reference)
    squared = (image.double() - reference.double()).square() * mask
    error = squared.flatten(1).sum(1) / mask.flatten(1).sum(1)
    return 10.0 * torch.log10(data_range**2 / error)


def ssim(image: Tensor, reference: Tensor, *, data_range: float = 1.0) -> Tensor:
    """Structural similarity of each image, float64 [B], mean over channels and the windows inside the image.

    Wang et al. 2004 with the 11x11 Gaussian window. Windows that reach over the border are left out, as in
    that paper and in scikit-image; torchmetrics 1.9 averages over reflected borders and gives another
    number.
    """
    _check(image, reference)
    if min(image.shape[-2:]) < WINDOW:
        raise ValueError(
            f"ssim needs images of at least {WINDOW}x{WINDOW} pixels, got {tuple(image.shape[-2:])}"
        )
    x, y = image.double(), reference.double()
    mean_x, mean_y = _blur(x), _blur(y)
    variance_x = _blur(x * x) - mean_x**2
    variance_y = _blur(y * y) - mean_y**2
    covariance = _blur(x * y) - mean_x * mean_y
    c1, c2 = (K1 * data_range) ** 2, (K2 * data_range) ** 2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    structure = (2 * covariance + c2) / (variance_x + variance_y + c2)
    return (luminance * structure).flatten(1).mean(1)


def _blur(x: Tensor) -> Tensor:
    """Gaussian means over the windows that lie inside, [B, C, H - 10, W - 10]; separable, so two thin
    filters.
    """
    offsets = torch.arange(WINDOW, dtype=x.dtype, device=x.device) - WINDOW // 2
    weights = torch.exp(-0.5 * (offsets / WINDOW_SIGMA) ** 2)
    weights = weights / weights.sum()
    channels = x.shape[1]
    vertical = weights.view(1, 1, WINDOW, 1).expand(channels, 1, WINDOW, 1)
    x = F.conv2d(x, vertical, groups=channels)
    return F.conv2d(x, vertical.transpose(2, 3), groups=channels)


def _check(image: Tensor, reference: Tensor) -> None:
    if image.shape != reference.shape or image.ndim != 4:
        raise ValueError(
            f"images and references must share one shape [B, C, H, W], "
            f"got {tuple(image.shape)} and {tuple(reference.shape)}"
        )
