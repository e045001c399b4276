"""What items of one batch have of their own: guidance, what is known of them, and what they remember."""

from collections.abc import Sequence

import torch
from torch import Tensor

from raydiance.diffusion.batching import PlanBatch, Query
from raydiance.diffusion.editing import known_region
from raydiance.diffusion.preconditioning import NoisePredictor, expand
from raydiance.serving.orders import Known

__all__ = ["completed", "guided_by", "join"]


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


def guided_by(eps: Tensor, guided: list[int], scales: list[float]) -> Tensor:
    """eps_u + scale (eps_c - eps_u) (Ho & Salimans 2022, Eq. 6): rows [n] with a class, then those without."""
    eps, without = eps[: len(scales)], eps[len(scales) :]
    at = torch.tensor(guided, device=eps.device)
    strength = torch.tensor([scales[i] for i in guided], dtype=eps.dtype, device=eps.device)
    return eps.index_copy(0, at, torch.lerp(without, eps[at], expand(strength, eps)))


def join(batches: list[PlanBatch]) -> PlanBatch:
    """One batch of several; what one remembers and another does not is filled with zeros, which nobody
    reads.
    """
    depth = max(len(batch.history) for batch in batches)
    history = tuple(
        torch.cat(
            [batch.history[j] if j < len(batch.history) else torch.zeros_like(batch.x) for batch in batches]
        )
        for j in range(depth)
    )
    items = tuple(item for batch in batches for item in batch.items)
    return PlanBatch(items, torch.cat([batch.x for batch in batches]), history)


def _called(eps: Tensor) -> NoisePredictor:
    """The noise predictor whose answer is there already."""

    def predict(x: Tensor, sigma: Tensor) -> Tensor:
        return eps

    return predict
