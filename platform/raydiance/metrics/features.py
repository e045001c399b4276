"""The features behind `fd_views` and `kd_views`: a fixed convolutional network drawn from a seed.

No weights are downloaded and none are trained, so a score means the same in every run: three levels of
random filters, made orthogonal, see edges, colours and their arrangement at three scales; their mean
strength in each quarter of the image and the mean colours there, each divided by its spread over random
pictures of boxes and then projected onto FEATURES random directions, are the features. Random convolutional
features are known to carry texture and shape (Saxe et al. 2011); they do not know what a chair is.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["FEATURES", "FEATURES_NAME", "ViewFeatures", "view_features"]

FEATURES = 64
FEATURES_NAME = "views-1"  # a change of anything below is another name, because it is another scale
SEED = 20_260_601
SIZE = 64  # pixels: every image is resized to it, so that scores do not depend on the resolution of the views
CHANNELS = (3, 32, 64, 96)
KERNEL = 5
CALIBRATION_IMAGES = 256
SLOPE = 0.2  # below 0, so that an edge and its opposite differ and no filter is silent


@dataclass(frozen=True)
class ViewFeatures:
    """The filters of the three levels [out, in, 5, 5] and the projection [4 * sum(CHANNELS), FEATURES]."""

    filters: tuple[Tensor, ...]
    projection: Tensor

    def __call__(self, images: Tensor) -> Tensor:
        """Features float32 [B, FEATURES] of RGB images [B, 3, H, W] in [0, 1]."""
        return _pooled(images, self.filters) @ self.projection


def view_features() -> ViewFeatures:
    """The network named FEATURES_NAME; the same numbers on every machine, from the CPU generator."""
    generator = torch.Generator().manual_seed(SEED)
    filters = tuple(
        _orthogonal(outputs, inputs * KERNEL**2, generator).view(outputs, inputs, KERNEL, KERNEL)
        for inputs, outputs in itertools.pairwise(CHANNELS)
    )
    directions = _orthogonal(FEATURES, 4 * sum(CHANNELS), generator).T
    # Without this the mean colours, which vary most, would drown the edges.
    spread = _pooled(_boxes(CALIBRATION_IMAGES, generator), filters).std(dim=0)
    return ViewFeatures(filters, directions / spread[:, None])


def _pooled(images: Tensor, filters: Sequence[Tensor]) -> Tensor:
    """Mean colours and filter strengths in each quarter, [B, 4 * sum(CHANNELS)]."""
    if images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"need RGB images [B, 3, H, W], got {tuple(images.shape)}")
    x = F.interpolate(images.float(), size=(SIZE, SIZE), mode="bilinear", antialias=True, align_corners=False)
    x = 2.0 * x - 1.0
    pooled = [F.adaptive_avg_pool2d(x, 2).flatten(1)]
    for weights in filters:
        x = F.leaky_relu(F.conv2d(F.pad(x, (2, 2, 2, 2), mode="replicate"), weights, stride=2), SLOPE)
        pooled.append(F.adaptive_avg_pool2d(x, 2).flatten(1))
        x = x - x.mean(dim=1, keepdim=True)  # what all filters share says nothing new to the next level
    return torch.cat(pooled, dim=1)


def _boxes(count: int, generator: torch.Generator) -> Tensor:
    """Images [count, 3, SIZE, SIZE] of coloured boxes on white: what the features are calibrated on."""
    images = torch.ones(count, 3, SIZE, SIZE)
    for image in images:
        for _ in range(5):
            x, y, width, height = torch.randint(SIZE // 2, (4,), generator=generator).tolist()
            image[:, y : y + height + 1, x : x + width + 1] = torch.rand(3, 1, 1, generator=generator)
    return images


def _orthogonal(rows: int, columns: int, generator: torch.Generator) -> Tensor:
    """A random float32 matrix [rows <= columns] with orthonormal rows."""
    gaussian = torch.randn(columns, rows, generator=generator, dtype=torch.float64)
    q, r = torch.linalg.qr(gaussian)
    rows_first: Tensor = (q * r.diagonal().sign()).T  # the sign makes the factorisation unique
    return rows_first.float().contiguous()
