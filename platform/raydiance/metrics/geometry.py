"""How near sets of shapes are to each other: Chamfer distance, COV, MMD, 1-NNA, nearest training shape.

A shape is a set of points on its surface, [P, 3]. The Chamfer distance is the sum of the two *means* of
*squared* distances. Nothing is rescaled in here: objects already fill the unit ball, and a rescaling per
shape would change MMD, so whoever normalises says so.
"""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["SetScores", "chamfer_distances", "jensen_shannon", "set_scores"]

Points = NDArray[np.float64]


class SetScores(NamedTuple):
    """Scores of generated shapes beside reference shapes (Achlioptas et al. 2018; Yang et al. 2019).

    coverage: share of the reference shapes that are nearest to some generated one, in [0, 1]; high is good.
    minimum_matching: mean distance from a reference shape to its nearest generated one; low is good.
    nearest_neighbour_accuracy: leave-one-out accuracy of telling the two sets apart; 0.5 is best.
    nearest: index of the reference shape nearest to each generated one; nearest_distance: how far away it is.
    """

    coverage: float
    minimum_matching: float
    nearest_neighbour_accuracy: float
    nearest: Tensor
    nearest_distance: Tensor


def chamfer_distances(shapes: Tensor, others: Tensor) -> Tensor:
    """Chamfer distance of every pair, float32 [A, B], for points [A, P, 3] and [B, Q, 3].

    By search trees: on a CPU three times as fast as all distances at once, and in no memory to speak of.
    """
    if shapes.ndim != 3 or others.ndim != 3 or shapes.shape[2] != 3 or others.shape[2] != 3:
        raise ValueError(
            f"need points [A, P, 3] and [B, Q, 3], got {tuple(shapes.shape)} and {tuple(others.shape)}"
        )
    x, y = shapes.detach().cpu().double().numpy(), others.detach().cpu().double().numpy()
    return torch.from_numpy(_one_way(x, y) + _one_way(y, x).T).float()


def set_scores(generated: Tensor, reference: Tensor) -> SetScores:
    """COV, MMD and 1-NNA of generated shapes [A, P, 3] beside reference shapes [B, P, 3].

    1-NNA compares two sets of the same size, so it uses the first min(A, B) of each.
    """
    across = chamfer_distances(generated, reference)
    nearest_distance, nearest = across.min(dim=1)
    size = min(across.shape)
    within_generated = chamfer_distances(generated[:size], generated[:size])
    within_reference = chamfer_distances(reference[:size], reference[:size])
    return SetScores(
        coverage=len(set(nearest.tolist())) / across.shape[1],
        minimum_matching=float(across.min(dim=0).values.mean()),
        nearest_neighbour_accuracy=_nearest_neighbour_accuracy(
            within_generated, within_reference, across[:size, :size]
        ),
        nearest=nearest,
        nearest_distance=nearest_distance,
    )


def jensen_shannon(generated: Tensor, reference: Tensor, *, resolution: int = 28) -> float:
    """Jensen-Shannon divergence, in nats, of where the points [N, P, 3] of two sets lie in the box [-1, 1]^3.

    Counts in a grid of resolution^3 cells (Achlioptas et al. 2018); points outside count in the nearest cell.
    """
    p, q = (_occupation(points, resolution) for points in (generated, reference))
    middle = (p + q) / 2
    return float(sum(torch.special.xlogy(each, each / middle).nansum() for each in (p, q)) / 2)


def _occupation(points: Tensor, resolution: int) -> Tensor:
    cells = ((points.double() + 1) / 2 * resolution).floor().long().clamp(0, resolution - 1).reshape(-1, 3)
    index = (cells[:, 0] * resolution + cells[:, 1]) * resolution + cells[:, 2]
    counts = torch.bincount(index, minlength=resolution**3).double()
    return counts / counts.sum()


def _nearest_neighbour_accuracy(within_x: Tensor, within_y: Tensor, across: Tensor) -> float:
    """Lopez-Paz and Oquab 2017: each shape is labelled as its nearest neighbour among all others."""
    size = len(across)
    distances = torch.cat([torch.cat([within_x, across], dim=1), torch.cat([across.T, within_y], dim=1)])
    distances = distances + torch.diag(torch.full((2 * size,), float("inf")))
    labels = torch.arange(2 * size) < size
    return float((labels[distances.argmin(dim=1)] == labels).float().mean())


def _one_way(shapes: Points, others: Points) -> Points:
    """Mean squared distance from the points of each other shape to the nearest of each shape, [A, B]."""
    queries = others.reshape(-1, 3)
    from scipy.spatial import cKDTree

    rows = [cKDTree(shape).query(queries)[0].reshape(len(others), -1) for shape in shapes]
    return np.stack([np.square(row).mean(axis=1) for row in rows])
