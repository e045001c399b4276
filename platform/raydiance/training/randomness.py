"""Random numbers that depend on (seed, step, sample) alone: not on rank, worker count or history."""

import hashlib
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

import torch
from torch import Tensor

__all__ = ["epoch_item", "sample_generator", "seeded"]


def sample_generator(seed: int, *place: int) -> torch.Generator:
    """A CPU generator of its own for each place, such as (step, index in the global batch)."""
    key = hashlib.blake2b(struct.pack(f"<{1 + len(place)}q", seed, *place), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(key, "little") >> 1)


def epoch_item(seed: int, count: int, position: int) -> int:
    """The item at a position of the endless stream that visits all items once per epoch, shuffled anew."""
    epoch, place = divmod(position, count)
    return int(_permutation(seed, count, epoch)[place])


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Inside, fresh modules draw their weights from this seed; the global generator stays as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


@lru_cache(maxsize=2)
def _permutation(seed: int, count: int, epoch: int) -> Tensor:
    return torch.randperm(count, generator=sample_generator(seed, -1, epoch))
