"""Exponential moving averages of weights."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from raydiance.training.distributed import like_shards_of

__all__ = ["Ema"]


class Ema:
    """The moving average of a model's parameters; buffers are copied as they are.

    decay: the share kept per update; early on min(decay, (1 + n) / (10 + n)) after n updates, so that the
    initial weights are soon forgotten.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"an EMA needs 0 <= decay < 1, got {decay}")
        self.decay = decay
        self.num_updates = 0
        self.shadow = {name: value.detach().clone() for name, value in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take one step towards the model's current weights."""
        decay = min(self.decay, (1 + self.num_updates) / (10 + self.num_updates))
        self.num_updates += 1
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                self.shadow[name].lerp_(value, 1 - decay)
            else:
                self.shadow[name].copy_(value)

    def load(self, shadow: Mapping[str, Tensor], num_updates: int) -> None:
        """Go on from a saved average."""
        for name, value in self.shadow.items():
            value.copy_(like_shards_of(value, shadow[name]))
        self.num_updates = num_updates
