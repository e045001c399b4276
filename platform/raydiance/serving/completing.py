"""Completions in a batch of other requests: what is known of some items leads their predicted noise."""

from collections.abc import Sequence

import torch
from torch import Tensor

from raydiance.diffusion.batching import Query
from raydiance.diffusion.editing import known_region
from raydiance.diffusion.preconditioning import NoisePredictor
from raydiance.serving.orders import Known

__all__ = ["completed"]


def completed(query: Query, eps: Tensor, knowns: Sequence[Known | None]) -> Tensor:
    """The noise eps [n, ...] of a batch, which leads to what is known of its items, where anything is."""
    if not any(knowns):
        return eps
    items = []
    for i, known in enumerate(knowns):
        one = eps[i : i + 1]
        if known is not None:
            predict = known_region(_called(one), known.latent.to(one), known.mask.to(one))
            one = predict(query.x[i : i + 1], query.sigma[i : i + 1])
        items.append(one)
    return torch.cat(items)


def _called(eps: Tensor) -> NoisePredictor:
    """The noise predictor whose answer is there already."""

    def predict(x: Tensor, sigma: Tensor) -> Tensor:
        return eps

    return predict
