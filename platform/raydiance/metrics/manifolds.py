"""Precision and recall of a set of features, and the Inception score of class probabilities."""

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["PrecisionRecall", "inception_score", "precision_recall"]


class PrecisionRecall(NamedTuple):
    """Shares of generated samples within the manifold of the reference, and the other way round, in [0, 1]."""

    precision: float
    recall: float


def precision_recall(features: Tensor, reference: Tensor, *, neighbours: int = 3) -> PrecisionRecall:
    """Of features [N, F] beside [M, F]: a manifold is the union of balls that reach from each point to its k-th
    nearest neighbour (Kynkaanniemi et al. 2019, Eq. 1-3). ValueError for sets of no more than k points.
    """
    if min(len(features), len(reference)) <= neighbours:
        raise ValueError(
            f"precision and recall with {neighbours} neighbours need more samples than that in each set, got "
            f"{len(features)} and {len(reference)}"
        )
    x, y = features.double(), reference.double()
    across = torch.cdist(x, y)
    within_y, within_x = (across <= _radii(y, neighbours)[None]), (across <= _radii(x, neighbours)[:, None])
    return PrecisionRecall(float(within_y.any(1).double().mean()), float(within_x.any(0).double().mean()))


def inception_score(logits: Tensor, *, splits: int = 10) -> tuple[float, float]:
    """Mean and deviation over splits of exp E KL(p(c | x) || p(c)), of class logits [N, K] in the order given
    (Salimans et al. 2016).
    """
    scores = []
    for part in logits.double().log_softmax(1).tensor_split(min(splits, len(logits))):
        marginal = part.exp().mean(0, keepdim=True).log()
        scores.append((part.exp() * (part - marginal)).sum(1).mean().exp())
    values = torch.stack(scores)
    return float(values.mean()), float(values.std(correction=0))


def _radii(points: Tensor, neighbours: int) -> Tensor:
    """Distance of each point to its k-th nearest other, [N]."""
    return torch.cdist(points, points).kthvalue(neighbours + 1, dim=1).values
