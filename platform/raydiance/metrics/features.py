"""The features behind `fd_views` and `kd_views`: a fixed convolutional network drawn from a seed.

No weights are downloaded and none are trained, so a score means the same in every run: three levels of
random filters, made orthogonal, see edges, colours and their arrangement at three scales; their mean
strength in each quarter of the image, projected onto FEATURES directions, is the feature vector. Random
convolutional features are known to carry texture and shape (Saxe et al. 2011); they do not know what a chair
is.
"""

import itertools
import math
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


@dataclass(frozen=True)
class ViewFeatures:
    """The filters of the three levels [out, in, 5, 5] and the projection [sum(out) * 4, FEATURES]."""

    filters: tuple[Tensor, ...]
    projection: Tensor

    def __call__(self, images: Tensor) -> Tensor:
        """Features float32 [B, FEATURES] of RGB images [B, 3, H, W] in [0, 1]."""
        if images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(f"need RGB images [B, 3, H, W], got {tuple(images.shape)}")
        x = F.interpolate(
            images.float(), size=(SIZE, SIZE), mode="bilinear", antialias=True, align_corners=False
        )
        x = 2.0 * x - 1.0
        pooled = []
        for weights in self.filters:
            # The absolute value keeps an edge and its opposite alike and never dies, whatever the sign of
            # the filter.
            x = F.conv2d(F.pad(x, (2, 2, 2, 2), mode="replicate"), weights, stride=2).abs()
            pooled.append(F.adaptive_avg_pool2d(x, 2).flatten(1))
            x = x - x.mean(dim=1, keepdim=True)  # what all filters share says nothing new to the next level
        return torch.cat(pooled, dim=1) @ self.projection


def view_features() -> ViewFeatures:
    """The network named FEATURES_NAME; the same numbers on every machine, from the CPU generator."""
    generator = torch.Generator().manual_seed(SEED)
    filters = tuple(
        _orthogonal(outputs, inputs * KERNEL**2, generator).view(outputs, inputs, KERNEL, KERNEL)
        for inputs, outputs in itertools.pairwise(CHANNELS)
    )
    pooled = 4 * sum(CHANNELS[1:])
    projection = _orthogonal(FEATURES, pooled, generator).T * math.sqrt(pooled / FEATURES)
    return ViewFeatures(filters, projection)


def _orthogonal(rows: int, columns: int, generator: torch.Generator) -> Tensor:
    """A random float32 matrix [rows <= columns] with orthonormal rows."""
    gaussian = torch.randn(columns, rows, generator=generator, dtype=torch.float64)
    q, r = torch.linalg.qr(gaussian)
    rows_first: Tensor = (q * r.diagonal().sign()).T
    return rows_first.float().contiguous()  # the sign makes the factorisation unique
