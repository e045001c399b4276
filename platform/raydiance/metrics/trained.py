"""A feature network that was trained here, to tell the objects of a data set apart by their views.

What the training needs to know about a view, which object it is, needs no labels; what lies before the answer
are features of shape and colour (Dosovitskiy et al. 2014). The job `train_extractor` makes one.
"""

from pathlib import Path
from typing import Annotated

from annotated_types import Ge
from torch import Tensor, nn
from torch.nn import functional as F

from raydiance.metrics.weights import with_weights
from raydiance.spec import spec

__all__ = ["ViewNetwork", "ViewNetworkSpec", "read_view_network"]


@spec
class ViewNetworkSpec:
    """channels: of the levels, each of half the resolution; size: pixels that images are resized to."""

    channels: tuple[int, ...] = (24, 48, 96, 128)
    features: Annotated[int, Ge(2)] = 64
    size: Annotated[int, Ge(16)] = 64

    def __post_init__(self) -> None:
        if not self.channels or any(width < 8 or width % 8 for width in self.channels):
            raise ValueError(f"channels must be multiples of 8, got {self.channels}")


class ViewNetwork(nn.Module):
    """Features [B, spec.features] of RGB images [B, 3, H, W] in [0, 1]."""

    def __init__(self, spec: ViewNetworkSpec) -> None:
        super().__init__()
        self.spec = spec
        layers: list[nn.Module] = []
        for inputs, outputs in zip((3, *spec.channels), spec.channels, strict=False):
            layers += [
                nn.Conv2d(inputs, outputs, 5, stride=2, padding=2),
                nn.GroupNorm(8, outputs),
                nn.SiLU(),
            ]
        self.levels = nn.Sequential(*layers)
        self.out = nn.Linear(4 * spec.channels[-1], spec.features)

    def forward(self, images: Tensor) -> Tensor:
        size = (self.spec.size, self.spec.size)
        x = F.interpolate(images.float(), size, mode="bilinear", antialias=True, align_corners=False)
        features: Tensor = self.out(F.adaptive_avg_pool2d(self.levels(2 * x - 1), 2).flatten(1))
        return features


def read_view_network(spec: ViewNetworkSpec, weights: Path) -> ViewNetwork:
    """The network with the weights of a safetensors file. DataError if they are not its."""
    return with_weights(ViewNetwork(spec), weights, "take an artifact of the job train_extractor")
