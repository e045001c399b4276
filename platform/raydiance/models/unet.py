"""One U-Net for 1, 2 and 3 dimensions, after ADM (Dhariwal & Nichol 2021): the denoiser of all diffusion."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from raydiance.models.blocks import (
    CrossAttention,
    NoiseEmbedding,
    Norm,
    ResidualBlock,
    SelfAttention,
    channels_last_kernels,
    conv,
    normalisation,
    upsample,
    zero_init,
)
from raydiance.models.gaussian import GaussianPath
from raydiance.models.patches import coarser, finer
from raydiance.models.text import MIN_VOCABULARY, TextEncoder
from raydiance.models.whole import GlobalPath
from raydiance.spec import spec

__all__ = ["Condition", "UNet", "UNetSpec"]


class Condition(NamedTuple):
    """What a network may be told beside the noise level; what is None is not told.

    labels [B] of classes, a vector [B, vector_dim] (a pose, a code), tokens [B, T, token_dim] (embeddings of text,
    patches) or, for a network with a vocabulary, numbers [B, T] of words. An item whose tokens are all zero is
    not told any.
    """

    labels: Tensor | None = None
    vector: Tensor | None = None
    tokens: Tensor | None = None


@spec
class UNetSpec:
    """The shape of a U-Net. Level 0 is the input's resolution; each further level halves it.

    With `num_classes` the network takes labels 0 .. num_classes - 1; the label num_classes means "no class".
    With `vector_dim` it takes a vector, added to the embedding of the noise level; with `token_dim` the
    attention levels and the global path also attend to tokens. For either the network learns what stands for
    "not told". Without `multipliers` there are no convolutions: the global path is all.
    With `vocabulary` tokens are made of texts: the network has an encoder of so many words (models.text), trained
    with it, for texts of `max_words` at most.
    With `basis` the global path moves the input along so many principal directions of the data and starts as
    the denoiser of normal data with the same covariance (models.gaussian); it must be fitted, and be
    preconditioned as EDM.
    `patch`: so many neighbours along each axis are one position of level 0, with all their channels; such a
    network works at a fraction of the cost where the input is large. `checkpointing`: activations within a
    stage are computed anew in the backward pass, not kept.
    """

    dims: int = 3
    in_channels: int = 16
    out_channels: int = 16
    channels: int = 32
    multipliers: tuple[int, ...] = (1, 4)
    num_blocks: int = 1
    attention_levels: tuple[int, ...] = (1,)
    num_heads: int = 4
    embedding_dim: int = 128
    num_classes: int = 0
    vector_dim: int = 0
    token_dim: int = 0
    vocabulary: int = 0
    max_words: int = 24
    text_layers: int = 1
    checkpointing: bool = False
    dropout: float = 0.0
    norm: Norm = "group"
    patch: int = 1
    coordinates: bool = True  # the network is told where in the volume it is: things stand upright
    resolution: int = 8  # of the input, along each axis; it matters to the global path alone
    global_width: int = 0  # of the path that sees the whole input at once; 0 for none
    global_blocks: int = 2
    global_pool: int = 1  # it sees, and moves, means over so many neighbours along each axis
    basis: int = 0  # principal directions that the global path works along; 0: all numbers of the input

    def __post_init__(self) -> None:
        if self.dims not in (1, 2, 3):
            raise ValueError(f"dims must be 1, 2 or 3, got {self.dims}")
        if self.patch < 1 or self.global_pool < 1 or self.resolution % self.global_pool:
            raise ValueError(
                "patch and global_pool must be at least 1, and global_pool divide the resolution "
                f"{self.resolution}, got {self.patch} and {self.global_pool}"
            )
        if self.basis and self.global_pool > 1:
            raise ValueError(f"a basis works on all numbers: global_pool must be 1, got {self.global_pool}")
        if not self.multipliers and not self.global_width:
            raise ValueError("multipliers needs at least one level, such as [1, 2], unless global_width > 0")
        if self.token_dim and not self.attention_levels and not self.global_width:
            raise ValueError(
                f"token_dim = {self.token_dim} needs attention_levels that attend to tokens, such as [0], or a "
                "global_width: got neither"
            )
        if self.vocabulary and (
            self.vocabulary < MIN_VOCABULARY or self.max_words < 1 or self.text_layers < 0
        ):
            raise ValueError(
                f"a vocabulary needs {MIN_VOCABULARY} words or more (two are taken), max_words of at least 1 "
                f"and text_layers of at least 0, got {self.vocabulary}, {self.max_words}, {self.text_layers}"
            )
        if self.vocabulary and (not self.token_dim or self.token_dim % self.num_heads):
            raise ValueError(
                f"vocabulary = {self.vocabulary} needs a token_dim > 0 that num_heads = {self.num_heads} divides, "
                f"got {self.token_dim}"
            )
        if self.basis < 0 or (self.basis and not self.global_width):
            raise ValueError(f"basis = {self.basis} needs a global_width > 0, or must be 0")
        if self.basis and self.in_channels != self.out_channels:
            raise ValueError(
                f"with a basis in_channels and out_channels must be equal, got {self.in_channels} and "
                f"{self.out_channels}"
            )
        for level in self.attention_levels:
            if not 0 <= level < len(self.multipliers):
                raise ValueError(
                    f"attention_levels must lie in 0 .. {len(self.multipliers) - 1} (the levels of "
                    f"multipliers), got {level}"
                )
            width = self.channels * self.multipliers[level]
            if width % self.num_heads:
                raise ValueError(
                    f"num_heads must divide the width {width} of level {level}, got {self.num_heads}"
                )


class _Stage(nn.Module):
    """A residual block, and behind it, where the level has it, attention within and to tokens."""

    def __init__(self, spec: UNetSpec, c_in: int, level: int) -> None:
        super().__init__()
        width = spec.channels * spec.multipliers[level]
        self.block = ResidualBlock(
            spec.dims, c_in, width, embedding_dim=spec.embedding_dim, norm=spec.norm, dropout=spec.dropout
        )
        self.attention = (
            SelfAttention(spec.dims, width, num_heads=spec.num_heads, norm=spec.norm)
            if level in spec.attention_levels
            else nn.Identity()
        )
        self.cross = (
            CrossAttention(spec.dims, width, spec.token_dim, num_heads=spec.num_heads, norm=spec.norm)
            if spec.token_dim and level in spec.attention_levels
            else None
        )
        self.checkpointing = spec.checkpointing

    def forward(self, x: Tensor, embedding: Tensor, tokens: Tensor | None) -> Tensor:
        if self.checkpointing and torch.is_grad_enabled():
            out: Tensor = checkpoint(self._run, x, embedding, tokens, use_reentrant=False)
            return out
        return self._run(x, embedding, tokens)

    def _run(self, x: Tensor, embedding: Tensor, tokens: Tensor | None) -> Tensor:
        h: Tensor = self.attention(self.block(x, embedding))
        return h if self.cross is None else self.cross(h, tokens)


class UNet(nn.Module):
    """A network F(x [B, C_in, *], noise level [B], condition) -> [B, C_out, *], which starts as zero."""

    def __init__(self, spec: UNetSpec) -> None:
        super().__init__()
        self.spec = spec
        dims, widths = spec.dims, [spec.channels * multiplier for multiplier in spec.multipliers]
        self.noise = NoiseEmbedding(spec.embedding_dim)
        self.classes = nn.Embedding(spec.num_classes + 1, spec.embedding_dim) if spec.num_classes else None
        self.vector = nn.Linear(spec.vector_dim, spec.embedding_dim) if spec.vector_dim else None
        self.no_vector = nn.Parameter(torch.zeros(spec.vector_dim)) if spec.vector_dim else None
        self.no_token = nn.Parameter(torch.zeros(1, 1, spec.token_dim)) if spec.token_dim else None
        self.text = _text(spec) if spec.vocabulary else None
        if spec.multipliers:
            self._build_levels(spec, widths)
        self.whole = _whole(spec) if spec.global_width else None
        if spec.multipliers:
            entries, edge = spec.patch**dims, _edge(spec)
            self.norm = normalisation(dims, widths[0], spec.norm)
            self.out = zero_init(conv(dims, widths[0], spec.out_channels * entries, edge))
        if dims == 3:
            channels_last_kernels(self)

    def _build_levels(self, spec: UNetSpec, widths: Sequence[int]) -> None:
        dims = spec.dims
        channels = spec.in_channels * spec.patch**dims + (dims if spec.coordinates else 0)
        self.stem = conv(dims, channels, widths[0], _edge(spec))
        self.down = nn.ModuleList()
        self.downsample = nn.ModuleList()
        skips, width = [widths[0]], widths[0]
        for level, level_width in enumerate(widths):
            if level:
                self.downsample.append(conv(dims, width, level_width, stride=2))
                width = level_width
                skips.append(width)
            self.down.append(nn.ModuleList(_Stage(spec, level_width, level) for _ in range(spec.num_blocks)))
            skips += [level_width] * spec.num_blocks

        last = len(widths) - 1
        self.middle = nn.ModuleList([_Stage(spec, width, last), _Stage(spec, width, last)])

        self.up = nn.ModuleList()
        self.upsample = nn.ModuleList()
        for level in reversed(range(len(widths))):
            stages = []
            for _ in range(spec.num_blocks + 1):
                stages.append(_Stage(spec, width + skips.pop(), level))
                width = widths[level]
            self.up.append(nn.ModuleList(stages))
            if level:
                self.upsample.append(conv(dims, width, widths[level - 1], 1))
                width = widths[level - 1]

    def forward(
        self, x: Tensor, noise_level: Tensor, *, condition: Tensor | Condition | None = None
    ) -> Tensor:
        """x [B, C_in, *], noise_level [B] (a monotone function of sigma), condition: labels [B] or a Condition.

        Raises ValueError for sizes that cannot be halved often enough, and for what the spec has no place for.
        """
        told = condition if isinstance(condition, Condition) else Condition(condition)
        self._check(x, told)
        embedding = F.silu(self._embed(x, noise_level, told))
        tokens = self._tokens(x, told.tokens)

        out = self._levels(x, embedding, tokens) if self.spec.multipliers else None
        if self.whole is None:
            assert out is not None, "a spec has multipliers, or a global path"
            return out
        if isinstance(self.whole, GaussianPath):
            flat: Tensor = self.whole(x.flatten(1), noise_level, embedding, tokens)
            whole = flat.reshape(x.shape)
        else:
            whole = self._moved(self.whole, x, embedding, tokens)
        return whole if out is None else out + whole

    def _moved(self, path: GlobalPath, x: Tensor, embedding: Tensor, tokens: Tensor | None) -> Tensor:
        pool = self.spec.global_pool
        if pool > 1:
            x = coarser(x, pool).mean(dim=2)
        out = path(x.flatten(1), embedding, tokens).reshape(len(x), self.spec.out_channels, *x.shape[2:])
        return out if pool == 1 else F.interpolate(out, scale_factor=float(pool), mode="nearest")

    def _levels(self, x: Tensor, embedding: Tensor, tokens: Tensor | None) -> Tensor:
        if self.spec.patch > 1:
            x = coarser(x, self.spec.patch).flatten(1, 2)
        if self.spec.dims == 3:
            x = x.contiguous(memory_format=torch.channels_last_3d)
        h = self.stem(torch.cat([x, _coordinates(x)], dim=1) if self.spec.coordinates else x)
        skips = [h]
        for level, stages in enumerate(self.down):
            if level:
                h = self.downsample[level - 1](h)
                skips.append(h)
            for stage in stages:  # type: ignore[attr-defined]
                h = stage(h, embedding, tokens)
                skips.append(h)
        for stage in self.middle:
            h = stage(h, embedding, tokens)
        for index, stages in enumerate(self.up):
            for stage in stages:  # type: ignore[attr-defined]
                h = stage(torch.cat([h, skips.pop()], dim=1), embedding, tokens)
            if index < len(self.upsample):
                h = upsample(self.upsample[index](h))
        out: Tensor = self.out(F.silu(self.norm(h)))
        return out if self.spec.patch == 1 else finer(out, self.spec.patch)

    def _embed(self, x: Tensor, noise_level: Tensor, told: Condition) -> Tensor:
        embedding: Tensor = self.noise(noise_level)
        if self.classes is not None:
            labels = told.labels
            if labels is None:
                labels = torch.full((len(x),), self.spec.num_classes, device=x.device)
            embedding = embedding + self.classes(labels)
        if self.vector is not None and self.no_vector is not None:
            vector = told.vector if told.vector is not None else self.no_vector.expand(len(x), -1)
            embedding = embedding + self.vector(vector)
        return embedding

    def _tokens(self, x: Tensor, told: Tensor | None) -> Tensor | None:
        """Tokens [B, T, token_dim] to attend to; of items that are not told any, the one that stands for that."""
        if self.no_token is None:
            return None
        if told is None:
            return self.no_token.expand(len(x), 1, -1)
        some = told.flatten(1).any(dim=1)[:, None, None]
        tokens = told if self.text is None or told.is_floating_point() else self.text(told)
        return torch.where(some, tokens, self.no_token.to(tokens.dtype))

    def _check(self, x: Tensor, told: Condition) -> None:
        factor = self.spec.patch * 2 ** max(0, len(self.spec.multipliers) - 1)
        if x.ndim != self.spec.dims + 2 or any(size % factor for size in x.shape[2:]):
            raise ValueError(
                f"need [B, C, {self.spec.dims} spatial axes divisible by {factor}] for multipliers "
                f"{self.spec.multipliers} and patches of {self.spec.patch}, got {list(x.shape)}"
            )
        if self.whole is not None and any(size != self.spec.resolution for size in x.shape[2:]):
            raise ValueError(
                f"the global path was built for resolution {self.spec.resolution} along each axis, got "
                f"{list(x.shape)}: set resolution, or global_width = 0 for a network of any size"
            )
        places = ("num_classes", "vector_dim", "token_dim")
        for name, given, place in zip(("class labels", "a vector", "tokens"), told, places):
            if given is not None and getattr(self.spec, place) == 0:
                raise ValueError(f"got {name}, but the spec has {place} = 0")


def _edge(spec: UNetSpec) -> int:
    """The kernel's edge of the first and the last convolution: a patch is a neighbourhood already."""
    return 3 if spec.patch == 1 else 1


def _text(spec: UNetSpec) -> TextEncoder:
    return TextEncoder(
        spec.vocabulary,
        spec.max_words,
        spec.token_dim,
        num_layers=spec.text_layers,
        num_heads=spec.num_heads,
    )


def _whole(spec: UNetSpec) -> GlobalPath | GaussianPath:
    positions = (spec.resolution // spec.global_pool) ** spec.dims
    size_in, size_out = (spec.basis or each * positions for each in (spec.in_channels, spec.out_channels))
    path = GlobalPath(
        size_in,
        size_out,
        spec.global_width,
        num_blocks=spec.global_blocks,
        embedding_dim=spec.embedding_dim,
        token_dim=spec.token_dim,
        num_heads=spec.num_heads,
    )
    return GaussianPath(spec.in_channels * positions, spec.basis, path) if spec.basis else path


def _coordinates(x: Tensor) -> Tensor:
    """Where each position lies along each axis, from -1 to 1: [B, dims, *]."""
    axes = [torch.linspace(-1, 1, size, device=x.device, dtype=x.dtype) for size in x.shape[2:]]
    grid = torch.stack(torch.meshgrid(*axes, indexing="ij"))
    return grid.expand(len(x), *grid.shape)
