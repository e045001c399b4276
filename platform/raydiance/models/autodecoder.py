"""The autodecoder: a table of codes, G1 from a code to a latent volume, G2 from there to a radiance field.

Legend: K code_dim, C latent_channels, L latent_resolution, R field_resolution. After "AutoDecoding Latent 3D
Diffusion Models" (Ntavelis et al. 2023, Appendix B.1); widths, the bottleneck of C channels and the
activations are our own choice.
"""

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from raydiance.models.blocks import (
    Norm,
    ResidualBlock,
    SelfAttention,
    channels_last_kernels,
    conv,
    normalisation,
    upsample,
    zero_init,
)
from raydiance.models.codebooks import HashedCodes
from raydiance.spec import spec

__all__ = ["Autodecoder", "AutodecoderSpec", "FieldDecoder", "LatentGenerator"]


@spec
class AutodecoderSpec:
    """The shape of the networks. `widths` and `depths` (residual blocks) go level by level, the base first.

    Either there is a level for the field's resolution too, or one less: then the last convolution gives eight
    voxels per cell at once (sub-pixel), which costs a fraction of convolutions at the full resolution.
    """

    code_dim: int = 64
    codebooks: int = 0  # tables that codes are put together from (models.codebooks); 0: a row for each object
    codebook_bits: int = 8  # a codebook has 2^bits rows
    code_std: float = 1.0  # 0: all codes start at zero and part ways by their gradients
    base_resolution: int = 8  # of the volume that a code is first spread over
    latent_channels: int = 16
    latent_resolution: int = 8
    field_resolution: int = 32
    widths: tuple[int, ...] = (64, 32)
    depths: tuple[int, ...] = (1, 0)
    attention_resolutions: tuple[int, ...] = ()
    norm: Norm = "group"
    linear_path: bool = True  # from the latent straight to its voxels, beside the levels
    density_activation: Literal["softplus", "exp"] = "softplus"
    density_scale: float = 25.0  # per unit length; the box is 2 wide
    initial_density: float = 0.5

    def __post_init__(self) -> None:
        levels = math.log2(self.field_resolution / self.base_resolution)
        if levels != int(levels) or levels < 1:
            raise ValueError(
                f"field_resolution must be base_resolution = {self.base_resolution} times 2, 4, 8, ..., "
                f"got {self.field_resolution}"
            )
        every = tuple(self.base_resolution * 2**level for level in range(int(levels) + 1))
        if len(self.widths) not in (len(every) - 1, len(every)):
            raise ValueError(
                f"widths needs one entry for each level of {every}, or all but the last, got {self.widths}"
            )
        if self.codebooks and (self.codebooks < 0 or self.code_dim % self.codebooks):
            raise ValueError(
                f"codebooks must divide code_dim = {self.code_dim}, or be 0 for a table; got {self.codebooks}"
            )
        if not 1 <= self.codebook_bits <= 24:
            raise ValueError(f"codebook_bits must be 1 to 24, got {self.codebook_bits}")
        if len(self.depths) != len(self.widths):
            raise ValueError(f"depths needs as many entries as widths, got {self.depths} and {self.widths}")
        if self.latent_resolution not in self.resolutions or self.latent_resolution == self.field_resolution:
            raise ValueError(
                f"latent_resolution must be one of the levels {self.resolutions} below the field, "
                f"got {self.latent_resolution}"
            )
        for resolution in self.attention_resolutions:
            if resolution not in self.resolutions:
                raise ValueError(
                    f"attention_resolutions must be of the levels {self.resolutions}, got {resolution}"
                )

    @property
    def resolutions(self) -> tuple[int, ...]:
        """The sizes of the levels, such as 4, 8, 16."""
        return tuple(self.base_resolution * 2**level for level in range(len(self.widths)))

    @property
    def subpixel(self) -> bool:
        """Whether the last convolution doubles the resolution."""
        return self.resolutions[-1] < self.field_resolution

    @property
    def latent_shape(self) -> tuple[int, int, int, int]:
        """[C, L, L, L] of one latent."""
        return (self.latent_channels, *(self.latent_resolution,) * 3)


def _level(spec: AutodecoderSpec, level: int, depth: int) -> nn.Sequential:
    """`depth` residual blocks at one resolution, and attention where the spec asks for it."""
    width = spec.widths[level]
    blocks: list[nn.Module] = [ResidualBlock(3, width, width, norm=spec.norm) for _ in range(depth)]
    if spec.resolutions[level] in spec.attention_resolutions:
        blocks.append(SelfAttention(3, width, norm=spec.norm))
    return nn.Sequential(*blocks)


class _Up(nn.Module):
    """The next level: fewer channels first (at the coarse, cheap resolution), then twice the size."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.project = conv(3, c_in, c_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        return upsample(self.project(x))


class LatentGenerator(nn.Module):
    """G1: codes [B, K] -> latents [B, C, L, L, L]."""

    def __init__(self, spec: AutodecoderSpec) -> None:
        super().__init__()
        self.shape = (spec.widths[0], *(spec.base_resolution,) * 3)
        self.linear = nn.Linear(spec.code_dim, math.prod(self.shape))
        if spec.code_std:
            # All objects start alike, and what tells them apart is learned signal rather than frozen noise.
            zero_init(self.linear)
        levels: list[nn.Module] = [_level(spec, 0, spec.depths[0])]
        last = spec.resolutions.index(spec.latent_resolution)
        for level in range(1, last + 1):
            levels += [
                _Up(spec.widths[level - 1], spec.widths[level]),
                _level(spec, level, spec.depths[level]),
            ]
        self.levels = nn.Sequential(*levels)
        self.out = conv(3, spec.widths[last], spec.latent_channels, 1)
        channels_last_kernels(self)

    def forward(self, codes: Tensor) -> Tensor:
        x = self.linear(codes).reshape(-1, *self.shape)
        x = x.contiguous(memory_format=torch.channels_last_3d)
        latents: Tensor = self.out(self.levels(x))
        return latents


class FieldDecoder(nn.Module):
    """G2: latents [B, C, L, L, L] -> grids of fields [B, R, R, R, 4], density (>= 0) first, then RGB.

    All a served bundle needs of the autodecoder. The linear path is a learned dictionary of patches, one for
    each channel; it lets codes follow the views long before the levels beside it have learned to decode.
    """

    def __init__(self, spec: AutodecoderSpec) -> None:
        super().__init__()
        self.spec = spec
        first = spec.resolutions.index(spec.latent_resolution)
        self.stem = conv(3, spec.latent_channels, spec.widths[first], 1)
        levels: list[nn.Module] = [_level(spec, first, spec.depths[first])]
        for level in range(first + 1, len(spec.resolutions)):
            levels += [
                _Up(spec.widths[level - 1], spec.widths[level]),
                _level(spec, level, spec.depths[level]),
            ]
        self.levels = nn.Sequential(*levels)
        self.norm = normalisation(3, spec.widths[-1], spec.norm)
        self.out = conv(3, spec.widths[-1], 32 if spec.subpixel else 4)
        self.doublings = round(math.log2(spec.field_resolution / spec.latent_resolution))
        self.linear = conv(3, spec.latent_channels, 4 * 8**self.doublings, 1) if spec.linear_path else None
        channels_last_kernels(self)

    def forward(self, latents: Tensor) -> Tensor:
        latents = latents.contiguous(memory_format=torch.channels_last_3d)
        raw = self.out(F.silu(self.norm(self.levels(self.stem(latents)))))
        raw = spread(raw) if self.spec.subpixel else raw
        if self.linear is not None:
            patches = self.linear(latents)
            for _ in range(self.doublings):
                patches = spread(patches)
            raw = raw + patches
        return activate(raw, self.spec)


def _codes(spec: AutodecoderSpec, num_objects: int) -> nn.Embedding | HashedCodes:
    if spec.codebooks:
        return HashedCodes(
            num_objects,
            spec.code_dim,
            num_tables=spec.codebooks,
            bits=spec.codebook_bits,
            std=spec.code_std,
        )
    table = nn.Embedding(num_objects, spec.code_dim)
    nn.init.normal_(table.weight, std=spec.code_std)
    return table


def spread(x: Tensor) -> Tensor:
    """Eight channels of a cell as its 2 x 2 x 2 voxels: [B, 8 C, D, H, W] -> [B, C, 2 D, 2 H, 2 W]."""
    batch, channels, d, h, w = x.shape
    cells = x.reshape(batch, channels // 8, 2, 2, 2, d, h, w).permute(0, 1, 5, 2, 6, 3, 7, 4)
    return cells.reshape(batch, channels // 8, 2 * d, 2 * h, 2 * w)


def activate(raw: Tensor, spec: AutodecoderSpec) -> Tensor:
    """Raw outputs [B, 4, X, Y, Z] -> grid [B, X, Y, Z, 4]: density starts thin, colour starts grey."""
    ratio = spec.initial_density / spec.density_scale
    if spec.density_activation == "softplus":
        density = spec.density_scale * F.softplus(raw[:, :1] + math.log(math.expm1(ratio)))
    else:
        # Beyond e^6 of the scale a cell is opaque anyway; the clamp keeps the exponential finite.
        density = spec.density_scale * torch.exp((raw[:, :1] + math.log(ratio)).clamp(max=6.0))
    grid = torch.cat([density, torch.sigmoid(raw[:, 1:])], dim=1)
    return grid.permute(0, 2, 3, 4, 1).contiguous()


class Autodecoder(nn.Module):
    """Codes, G1 and G2 together: object indices [B] -> grids [B, R, R, R, 4]."""

    def __init__(self, spec: AutodecoderSpec, num_objects: int) -> None:
        super().__init__()
        self.spec = spec
        self.codes = _codes(spec, num_objects)
        self.generator = LatentGenerator(spec)
        self.decoder = FieldDecoder(spec)

    def latent(self, codes: Tensor) -> Tensor:
        """G1: codes [B, K] -> latents [B, C, L, L, L]."""
        latents: Tensor = self.generator(codes)
        return latents

    def decode(self, latents: Tensor) -> Tensor:
        """G2: latents [B, C, L, L, L] -> grids [B, R, R, R, 4]."""
        grid: Tensor = self.decoder(latents)
        return grid

    def forward(self, object_indices: Tensor) -> Tensor:
        return self.decode(self.latent(self.codes(object_indices)))
