"""Where fresh noise comes from: generators handed in, never the global one."""

from collections.abc import Sequence
from typing import TypeAlias

import torch
from torch import Generator, Tensor

from raydiance.errors import ConfigError

__all__ = ["Randomness", "draw_noise"]

Randomness: TypeAlias = Generator | Sequence[Generator] | None
"""One generator for the batch, or one per item (then an item's sample does not depend on its batch)."""


def draw_noise(generator: Randomness, like: Tensor) -> Tensor:
    """Unit-variance noise of the shape, type and device of `like` [B, ...].

    Drawn on the generator's own device, in float32 (float64 if `like` is), so that a seed means the same
    everywhere.
    """
    dtype = torch.float64 if like.dtype == torch.float64 else torch.float32
    if generator is None:
        raise ConfigError("fresh noise is needed: pass a torch.Generator, or one per item")
    if isinstance(generator, Generator):
        noise = torch.randn(like.shape, generator=generator, device=generator.device, dtype=dtype)
        return noise.to(like.device, like.dtype)
    if len(generator) != len(like):
        raise ConfigError(f"need one generator per item, got {len(generator)} for a batch of {len(like)}")
    shape = like.shape[1:]
    return torch.stack([torch.randn(shape, generator=g, device=g.device, dtype=dtype) for g in generator]).to(
        like.device, like.dtype
    )
