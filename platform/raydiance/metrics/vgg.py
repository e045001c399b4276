"""A pyramid of perceptual distances in the features of VGG-19 (Simonyan & Zisserman 2015).

The loss of "AutoDecoding Latent 3D Diffusion Models" (Ntavelis et al. 2023): at each of some scales the mean
absolute difference of the features relu1_1, relu2_1, relu3_1, relu4_1 and relu5_1, all added up. s: a scale.

The weights are not part of this project: a safetensors file that the user brings has "features.0.weight" ..
"features.28.bias", the names of the network's convolutions in common use; what else is in it is left alone.
"""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from raydiance.metrics.weights import with_weights

__all__ = ["VggPyramid", "read_vgg"]

WIDTHS = (
    (64, 64),
    (128, 128),
    (256,) * 4,
    (512,) * 4,
    (512,),
)  # a maximum over 2 x 2 between them; up to relu5_1
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of the images that the network was trained on
SCALES = (1.0, 0.5, 0.25)


class VggPyramid(nn.Module):
    """The distance, a scalar, of images [B, 3, H, W] in [0, 1] to their references; 0 where they are equal.

    Features of which an image has none, because it is too small to be halved so often, are left out.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, scales: tuple[float, ...] = SCALES) -> None:
        super().__init__()
        self.scales = scales
        layers: list[nn.Module] = []
        c_in = 3
        for level, widths in enumerate(WIDTHS):
            if level:
                layers.append(nn.MaxPool2d(2))
            for width in widths:
                layers += [nn.Conv2d(c_in, width, 3, padding=1), nn.ReLU()]
                c_in = width
        self.features = nn.Sequential(*layers)
        for name, values in (("mean", MEAN), ("std", STD)):
            self.register_buffer(name, torch.tensor(values).reshape(1, 3, 1, 1), persistent=False)

    def forward(self, images: Tensor, references: Tensor) -> Tensor:
        total = images.new_zeros(())
        for scale in self.scales:
            pair = torch.cat([shrunk(images, scale), shrunk(references, scale)])
            for features in self.seen((pair - self.mean) / self.std):
                ours, theirs = features.chunk(2)
                total = total + (ours - theirs).abs().mean()
        return total

    def seen(self, images: Tensor) -> Iterator[Tensor]:
        """The first features of each level, [B, C, h, w], of normalised images."""
        x, is_first = images, True
        for layer in self.features:
            if isinstance(layer, nn.MaxPool2d):
                if min(x.shape[-2:]) < 2:
                    return
                is_first = True
            x = layer(x)
            if isinstance(layer, nn.ReLU) and is_first:
                yield x
                is_first = False


def shrunk(images: Tensor, scale: float) -> Tensor:
    """Images [B, C, H, W] at a scale 1, 1/2, 1/4, ...

    Blurred with sigma = (1/s - 1) / 2 over 2 round(4 sigma) + 1 pixels, then every (1/s)-th pixel. At the border
    the outermost pixels are repeated.
    """
    step = round(1 / scale)
    if step == 1:
        return images
    sigma = (step - 1) / 2
    radius = round(4 * sigma)
    offsets = torch.arange(-radius, radius + 1, dtype=images.dtype, device=images.device)
    kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
    kernel = (kernel / kernel.sum()).expand(images.shape[1], 1, 1, -1)
    wide = F.pad(images, (radius,) * 4, mode="replicate")
    blurred = F.conv2d(F.conv2d(wide, kernel, groups=images.shape[1]), kernel.mT, groups=images.shape[1])
    return blurred[..., ::step, ::step]


def read_vgg(path: Path) -> VggPyramid:
    """The pyramid with the weights of a safetensors file. DataError if they are not those of this network."""
    remedy = 'a safetensors file with "features.0.weight" .. "features.28.bias" of VGG-19 is needed'
    return with_weights(VggPyramid(), path, remedy, only_known=True)
