"""The bricks of all networks here: convolutions in 1, 2 or 3 dimensions, residual blocks, self-attention.

Every brick takes [B, C, *spatial] with as many spatial axes as its `dims`.
"""

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = [
    "CrossAttention",
    "NoiseEmbedding",
    "Norm",
    "ResidualBlock",
    "SelfAttention",
    "broadcast_to_spatial",
    "channels_last_kernels",
    "conv",
    "normalisation",
    "upsample",
    "zero_init",
]

Norm = Literal["group", "batch"]

_CONV: dict[int, type[nn.Module]] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
_BATCH_NORM: dict[int, type[nn.Module]] = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}


def conv(dims: int, c_in: int, c_out: int, kernel: int = 3, *, stride: int = 1) -> nn.Module:
    """A convolution over `dims` axes that keeps the size (at stride 1).

    Raises ValueError for other than 1, 2 or 3 dimensions.
    """
    if dims not in _CONV:
        raise ValueError(f"dims must be 1, 2 or 3, got {dims}")
    return _CONV[dims](c_in, c_out, kernel, stride=stride, padding=kernel // 2)


def channels_last_kernels(module: nn.Module) -> None:
    """Lay the kernels of 3D convolutions out channels last, which makes them faster on a CPU.

    Those of one voxel stay: both layouts are the same bytes for them, but DDP warns when their strides differ.
    """
    for parameter in module.parameters():
        if parameter.ndim == 5 and parameter[0, 0].numel() > 1:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last_3d)


def zero_init(module: nn.Module) -> nn.Module:
    """The module with all its parameters at zero, so that a branch ending in it starts as nothing."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


def normalisation(dims: int, channels: int, norm: Norm = "group", *, group_size: int = 8) -> nn.Module:
    """GroupNorm with groups of about `group_size` channels (always a divisor of them), or BatchNorm."""
    if norm == "batch":
        return _BATCH_NORM[dims](channels)
    return nn.GroupNorm(math.gcd(channels, max(1, channels // group_size)), channels)


def broadcast_to_spatial(value: Tensor, like: Tensor) -> Tensor:
    """[B, C] or [B] with as many trailing axes of size 1 as make it broadcast over `like`."""
    return value.reshape(*value.shape, *(1,) * (like.ndim - value.ndim))


def upsample(x: Tensor) -> Tensor:
    """Twice the size along each spatial axis, by repetition."""
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


class NoiseEmbedding(nn.Module):
    """A learned embedding of the noise level: [B] -> [B, embedding_dim].

    Sines and cosines on a fixed ladder of frequencies, for inputs of order 1 such as EDM's ln(sigma) / 4.
    """

    frequencies: Tensor

    def __init__(self, embedding_dim: int, *, num_frequencies: int = 16, max_frequency: float = 8.0) -> None:
        super().__init__()
        # on the CPU whatever device is set: on "meta" this one line would import SymPy and TorchDynamo, 2 s
        ladder = torch.logspace(-1.0, math.log10(max_frequency), num_frequencies, device="cpu") * math.pi
        self.register_buffer("frequencies", ladder, persistent=False)
        self.project = nn.Sequential(
            nn.Linear(2 * num_frequencies, embedding_dim), nn.SiLU(), nn.Linear(embedding_dim, embedding_dim)
        )

    def forward(self, noise_level: Tensor) -> Tensor:
        phase = noise_level.to(self.frequencies.dtype)[:, None] * self.frequencies
        embedding: Tensor = self.project(torch.cat([phase.sin(), phase.cos()], dim=1))
        return embedding


class ResidualBlock(nn.Module):
    """Norm, SiLU, conv, [FiLM,] norm, SiLU, conv, beside a skip: [B, c_in, *] -> [B, c_out, *].

    With `embedding_dim` the second norm is scaled and shifted by the embedding (FiLM, as in ADM). The last
    convolution starts at zero, so a fresh block is its skip.
    """

    def __init__(
        self,
        dims: int,
        c_in: int,
        c_out: int,
        *,
        embedding_dim: int = 0,
        norm: Norm = "group",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.norm_1 = normalisation(dims, c_in, norm)
        self.conv_1 = conv(dims, c_in, c_out)
        self.film = zero_init(nn.Linear(embedding_dim, 2 * c_out)) if embedding_dim else None
        self.norm_2 = normalisation(dims, c_out, norm)
        self.dropout = nn.Dropout(dropout)
        self.conv_2 = zero_init(conv(dims, c_out, c_out))
        self.skip: nn.Module = nn.Identity() if c_in == c_out else conv(dims, c_in, c_out, 1)

    def forward(self, x: Tensor, embedding: Tensor | None = None) -> Tensor:
        h = self.norm_2(self.conv_1(F.silu(self.norm_1(x))))
        if self.film is not None:
            if embedding is None:
                raise ValueError("this block was built with embedding_dim > 0 and needs an embedding [B, E]")
            scale, shift = self.film(embedding).chunk(2, dim=1)
            h = h * (1 + broadcast_to_spatial(scale, h)) + broadcast_to_spatial(shift, h)
        out: Tensor = self.skip(x) + self.conv_2(self.dropout(F.silu(h)))
        return out


class SelfAttention(nn.Module):
    """Self-attention over all positions of the volume, beside a skip: [B, C, *] -> [B, C, *].

    The output projection starts at zero. `num_heads` must divide the channels.
    """

    def __init__(self, dims: int, channels: int, *, num_heads: int = 1, norm: Norm = "group") -> None:
        super().__init__()
        if channels % num_heads:
            raise ValueError(f"num_heads must divide the channels, got {num_heads} and {channels}")
        self.num_heads = num_heads
        self.norm = normalisation(dims, channels, norm)
        self.qkv = conv(dims, channels, 3 * channels, 1)
        self.out = zero_init(conv(dims, channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        batch, channels = x.shape[:2]
        qkv = self.qkv(self.norm(x)).reshape(batch, 3, self.num_heads, channels // self.num_heads, -1)
        q, k, v = qkv.transpose(-1, -2).unbind(dim=1)
        h = F.scaled_dot_product_attention(q, k, v)
        out: Tensor = x + self.out(h.transpose(-1, -2).reshape(x.shape))
        return out


class CrossAttention(nn.Module):
    """Attention of all positions to tokens, beside a skip: [B, C, *], [B, T, token_dim] -> [B, C, *].

    Rombach et al. 2022, section 3.3. The output projection starts at zero. `num_heads` must divide the channels.
    """

    def __init__(
        self, dims: int, channels: int, token_dim: int, *, num_heads: int = 1, norm: Norm = "group"
    ) -> None:
        super().__init__()
        if channels % num_heads:
            raise ValueError(f"num_heads must divide the channels, got {num_heads} and {channels}")
        self.num_heads = num_heads
        self.norm = normalisation(dims, channels, norm)
        self.query = conv(dims, channels, channels, 1)
        self.token_norm = nn.LayerNorm(token_dim)
        self.key_value = nn.Linear(token_dim, 2 * channels)
        self.out = zero_init(conv(dims, channels, channels, 1))

    def forward(self, x: Tensor, tokens: Tensor) -> Tensor:
        batch, channels = x.shape[:2]
        split = (batch, -1, self.num_heads, channels // self.num_heads)
        q = self.query(self.norm(x)).reshape(batch, channels, -1).mT.reshape(split).transpose(1, 2)
        key, value = self.key_value(self.token_norm(tokens)).chunk(2, dim=-1)
        k, v = key.reshape(split).transpose(1, 2), value.reshape(split).transpose(1, 2)
        h = F.scaled_dot_product_attention(q, k, v)
        out: Tensor = x + self.out(h.transpose(1, 2).reshape(batch, -1, channels).mT.reshape(x.shape))
        return out
