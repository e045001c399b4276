"""The Inception network of published FID, KID and Inception scores, for weights that the user brings.

Architecture: Szegedy et al. 2015 ("Rethinking the Inception architecture"), in the variant whose weights of
2015-12-05 all papers use: means that leave the padding out, a maximum in the last block, 1008 classes.
Parameters have the names they have in PyTorch ports of those weights ("Mixed_5b.branch1x1.conv.weight"), so a
converted file fits as it is. No weights are part of this project.
"""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from raydiance.metrics.weights import with_weights

__all__ = ["FidInception", "read_inception"]

SIZE, CLASSES, FEATURES = 299, 1008, 2048


class _Conv(nn.Module):
    def __init__(
        self,
        c_in: int,
        c_out: int,
        kernel: int | tuple[int, int],
        stride: int = 1,
        padding: int | tuple[int, int] = 0,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(c_in, c_out, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(c_out, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = F.relu(self.bn(self.conv(x)))
        return out


def _mean(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)


def _across(c_in: int, c_out: int, length: int) -> _Conv:
    """A convolution along rows."""
    return _Conv(c_in, c_out, (1, length), padding=(0, length // 2))


def _down(c_in: int, c_out: int, length: int) -> _Conv:
    """A convolution along columns."""
    return _Conv(c_in, c_out, (length, 1), padding=(length // 2, 0))


class _A(nn.Module):
    def __init__(self, c_in: int, pooled: int) -> None:
        super().__init__()
        self.branch1x1 = _Conv(c_in, 64, 1)
        self.branch5x5_1, self.branch5x5_2 = _Conv(c_in, 48, 1), _Conv(48, 64, 5, padding=2)
        self.branch3x3dbl_1 = _Conv(c_in, 64, 1)
        self.branch3x3dbl_2, self.branch3x3dbl_3 = _Conv(64, 96, 3, padding=1), _Conv(96, 96, 3, padding=1)
        self.branch_pool = _Conv(c_in, pooled, 1)

    def forward(self, x: Tensor) -> Tensor:
        triple = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        wide = self.branch5x5_2(self.branch5x5_1(x))
        return torch.cat([self.branch1x1(x), wide, triple, self.branch_pool(_mean(x))], 1)


class _B(nn.Module):
    def __init__(self, c_in: int) -> None:
        super().__init__()
        self.branch3x3 = _Conv(c_in, 384, 3, 2)
        self.branch3x3dbl_1, self.branch3x3dbl_2 = _Conv(c_in, 64, 1), _Conv(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = _Conv(96, 96, 3, 2)

    def forward(self, x: Tensor) -> Tensor:
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch3x3(x), double, F.max_pool2d(x, 3, 2)], 1)


class _C(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.branch1x1, self.branch7x7_1 = _Conv(768, 192, 1), _Conv(768, width, 1)
        self.branch7x7_2, self.branch7x7_3 = _across(width, width, 7), _down(width, 192, 7)
        self.branch7x7dbl_1 = _Conv(768, width, 1)
        self.branch7x7dbl_2, self.branch7x7dbl_3 = _down(width, width, 7), _across(width, width, 7)
        self.branch7x7dbl_4, self.branch7x7dbl_5 = _down(width, width, 7), _across(width, 192, 7)
        self.branch_pool = _Conv(768, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        single = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        double = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        double = self.branch7x7dbl_5(self.branch7x7dbl_4(double))
        return torch.cat([self.branch1x1(x), single, double, self.branch_pool(_mean(x))], 1)


class _D(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.branch3x3_1, self.branch3x3_2 = _Conv(768, 192, 1), _Conv(192, 320, 3, 2)
        self.branch7x7x3_1, self.branch7x7x3_2 = _Conv(768, 192, 1), _across(192, 192, 7)
        self.branch7x7x3_3, self.branch7x7x3_4 = _down(192, 192, 7), _Conv(192, 192, 3, 2)

    def forward(self, x: Tensor) -> Tensor:
        long = self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(x)))
        parts = [self.branch3x3_2(self.branch3x3_1(x)), self.branch7x7x3_4(long), F.max_pool2d(x, 3, 2)]
        return torch.cat(parts, 1)


class _E(nn.Module):
    def __init__(self, c_in: int, *, pool: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.pool = pool
        self.branch1x1, self.branch3x3_1 = _Conv(c_in, 320, 1), _Conv(c_in, 384, 1)
        self.branch3x3_2a, self.branch3x3_2b = _across(384, 384, 3), _down(384, 384, 3)
        self.branch3x3dbl_1, self.branch3x3dbl_2 = _Conv(c_in, 448, 1), _Conv(448, 384, 3, padding=1)
        self.branch3x3dbl_3a, self.branch3x3dbl_3b = _across(384, 384, 3), _down(384, 384, 3)
        self.branch_pool = _Conv(c_in, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        one, two = self.branch3x3_1(x), self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        ones = [self.branch3x3_2a(one), self.branch3x3_2b(one)]
        twos = [self.branch3x3dbl_3a(two), self.branch3x3dbl_3b(two)]
        return torch.cat([self.branch1x1(x), *ones, *twos, self.branch_pool(self.pool(x))], 1)


class FidInception(nn.Module):
    """Features [B, 2048] and class logits [B, 1008] of RGB images [B, 3, H, W] in [0, 1]."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3, self.Conv2d_2a_3x3 = _Conv(3, 32, 3, 2), _Conv(32, 32, 3)
        self.Conv2d_2b_3x3, self.Conv2d_3b_1x1 = _Conv(32, 64, 3, padding=1), _Conv(64, 80, 1)
        self.Conv2d_4a_3x3 = _Conv(80, 192, 3)
        self.Mixed_5b, self.Mixed_5c, self.Mixed_5d = _A(192, 32), _A(256, 64), _A(288, 64)
        self.Mixed_6a = _B(288)
        self.Mixed_6b, self.Mixed_6c, self.Mixed_6d, self.Mixed_6e = _C(128), _C(160), _C(160), _C(192)
        self.Mixed_7a, self.Mixed_7b = _D(), _E(1280, pool=_mean)
        self.Mixed_7c = _E(2048, pool=_largest)
        self.fc = nn.Linear(FEATURES, CLASSES)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        x = self.Conv2d_1a_3x3(_resized(images) * 2 - 1)
        x = F.max_pool2d(self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(x)), 3, 2)
        x = F.max_pool2d(self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(x)), 3, 2)
        x = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(x)))
        x = self.Mixed_6e(self.Mixed_6d(self.Mixed_6c(self.Mixed_6b(self.Mixed_6a(x)))))
        features = self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(x))).mean((2, 3))
        return features, self.fc(features)


def read_inception(path: Path) -> FidInception:
    """The network with the weights of a safetensors file. DataError if it is none, or not of this network."""
    remedy = (
        "convert the state dict of a PyTorch port of those of 2015-12-05 with safetensors.torch.save_file"
    )
    return with_weights(FidInception(), path, remedy)


def _largest(x: Tensor) -> Tensor:
    return F.max_pool2d(x, 3, 1, 1)


def _resized(images: Tensor) -> Tensor:
    """[B, 3, 299, 299], bilinear as TensorFlow 1 did it: pixel i lies at i times the ratio of the sizes."""
    for axis in (2, 3):
        length = images.shape[axis]
        place = torch.arange(SIZE, device=images.device) * (length / SIZE)
        low = place.floor().long().clamp(max=length - 1)
        share = (place - low).to(images.dtype).reshape((-1, 1) if axis == 2 else (-1,))
        one, two = images.index_select(axis, low), images.index_select(axis, (low + 1).clamp(max=length - 1))
        images = torch.lerp(one, two, share)
    return images
