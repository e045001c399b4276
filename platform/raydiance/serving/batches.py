"""What items of one batch have of their own: guidance, what is known of them, and what they remember."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from raydiance.diffusion.batching import PlanBatch, Query
from raydiance.diffusion.editing import known_region
from raydiance.diffusion.preconditioning import NoisePredictor, expand
from raydiance.serving.orders import Known, Order

__all__ = ["completed", "guided_by", "join", "told_of"]


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


def told_of(
    orders: Sequence[Order[Any]], guided: int, no_label: int, device: torch.device
) -> tuple[Tensor | None, ...]:
    """Labels [n + guided], and words [n + guided, T] where any order has a text, of the items of a batch, then
    of those that are asked for once more, without either.
    """
    labels = None
    if any(order.label is not None for order in orders):
        given = [no_label if order.label is None else order.label for order in orders]
        labels = torch.tensor([*given, *([no_label] * guided)], device=device)
    texts = [order.words for order in orders]
    some = next((words for words in texts if words is not None), None)
    if some is None:
        return (labels,)
    silent = torch.zeros_like(some)
    spoken = [silent if words is None else words for words in texts]
    return labels, torch.stack([*spoken, *([silent] * guided)]).to(device)


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
