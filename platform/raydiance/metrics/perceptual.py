"""LPIPS (Zhang et al. 2018): distances of images in the features of AlexNet, weighted as people judge them.

The weights are not part of this project: a safetensors file that the user brings holds AlexNet's five
convolutions ("net.0.weight", "net.0.bias" .. "net.4.bias") and the weights of their channels ("lin.0" ..
"lin.4", of one number for each channel).
"""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from raydiance.metrics.weights import with_weights

__all__ = ["PerceptualDistance", "read_lpips"]

# c_in, c_out, kernel, stride, padding; a maximum over 3 x 3 of stride 2 stands before the second and the third
LAYERS = (
    (3, 64, 11, 4, 2),
    (64, 192, 5, 1, 2),
    (192, 384, 3, 1, 1),
    (384, 256, 3, 1, 1),
    (256, 256, 3, 1, 1),
)
POOLED = (1, 2)
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # of images in [-1, 1], as in the paper's code


class PerceptualDistance(nn.Module):
    """LPIPS [B] of images [B, 3, H, W] in [0, 1] and their references; 0 where they are equal."""

    shift: Tensor
    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.ModuleList(nn.Conv2d(*layer) for layer in LAYERS)
        self.lin = nn.ParameterList(nn.Parameter(torch.zeros(layer[1])) for layer in LAYERS)
        for name, values in (("shift", SHIFT), ("scale", SCALE)):
            self.register_buffer(name, torch.tensor(values).reshape(1, 3, 1, 1), persistent=False)

    def forward(self, images: Tensor, references: Tensor) -> Tensor:
        x, y = ((2 * each - 1 - self.shift) / self.scale for each in (images, references))
        total = images.new_zeros(len(images))
        for level, (layer, weights) in enumerate(zip(self.net, self.lin, strict=True)):
            if level in POOLED:
                x, y = F.max_pool2d(x, 3, 2), F.max_pool2d(y, 3, 2)
            x, y = F.relu(layer(x)), F.relu(layer(y))
            unlike = (_unit(x) - _unit(y)).square().movedim(1, -1) @ weights
            total = total + unlike.mean((1, 2))
        return total


def read_lpips(path: Path) -> PerceptualDistance:
    """The distance with the weights of a safetensors file. DataError if it is none, or not of this network."""
    remedy = "a safetensors file with net.0.weight .. net.4.bias and lin.0 .. lin.4 is needed"
    return with_weights(PerceptualDistance(), path, remedy)


def _unit(x: Tensor) -> Tensor:
    return x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10)
