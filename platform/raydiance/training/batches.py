"""Which samples a worker takes at a step, and the random numbers of each."""

from dataclasses import dataclass, replace

import torch

from raydiance.errors import ConfigError
from raydiance.training.randomness import epoch_item, sample_generator

__all__ = ["Batch"]


@dataclass(frozen=True)
class Batch:
    """This worker's part of one step: which samples of the global batch, and the random numbers of each."""

    seed: int
    step: int
    indices: range
    batch_size: int

    def generators(self) -> list[torch.Generator]:
        """One generator per sample, the same whoever takes the sample."""
        return [sample_generator(self.seed, self.step, index) for index in self.indices]

    def parts(self, count: int) -> list["Batch"]:
        """This worker's part in `count` equal pieces. Raises ConfigError if they cannot be equal."""
        size, rest = divmod(len(self.indices), count)
        if rest:
            raise ConfigError(
                f"accumulate = {count} must divide the {len(self.indices)} samples that a worker has of a batch: "
                "change it, batch_size or the number of workers"
            )
        pieces = [self.indices[i * size : (i + 1) * size] for i in range(count)]
        return [replace(self, indices=piece) for piece in pieces]

    def items(self, count: int) -> list[int]:
        """Which of `count` training items each sample is: all items once per epoch, in shuffled order."""
        start = self.step * self.batch_size
        return [epoch_item(self.seed, count, start + index) for index in self.indices]
