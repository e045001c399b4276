"""The smallest ball round a set of points."""

from itertools import combinations

import numpy as np
from numpy.typing import NDArray

__all__ = ["bounding_ball"]

Array = NDArray[np.float64]
SLACK = 1 + 1e-9
MAX_ROUNDS = 1000


def bounding_ball(points: NDArray[np.floating]) -> tuple[Array, float]:
    """Centre float64 [3] and radius of the smallest ball that holds all points [N, 3].

    The ball of the support points is widened by the point farthest outside until none is; at most four points
    support the smallest ball in space, so each round solves a set of five (as in Welzl 1991).
    """
    points = np.asarray(points, np.float64)
    support = points[:1]
    center, radius = support[0], 0.0
    for _ in range(MAX_ROUNDS):
        distance = np.linalg.norm(points - center, axis=-1)
        farthest = int(distance.argmax())
        if distance[farthest] <= radius * SLACK:
            break
        center, radius, support = _ball_of_few(np.concatenate((support, points[farthest : farthest + 1])))
    return center, float(np.linalg.norm(points - center, axis=-1).max())


def _ball_of_few(points: Array) -> tuple[Array, float, Array]:
    """The smallest ball of at most five points, by trying every support of two to four of them."""
    best: tuple[Array, float, Array] | None = None
    for size in range(2, min(len(points), 4) + 1):
        for chosen in combinations(range(len(points)), size):
            support = points[list(chosen)]
            center = _equidistant(support)
            radius = float(np.linalg.norm(support - center, axis=-1).max())
            if (best is None or radius < best[1]) and _holds(points, center, radius):
                best = center, radius, support
    if best is None:  # points too close to one another to tell apart
        center = points.mean(axis=0)
        return center, float(np.linalg.norm(points - center, axis=-1).max()), points[:1]
    return best


def _equidistant(points: Array) -> Array:
    """The point at the same distance from all of them, in the space that they span."""
    first, rest = points[0], points[1:] - points[0]
    coefficients = np.linalg.lstsq(2 * rest @ rest.T, (rest**2).sum(axis=-1), rcond=None)[0]
    center: Array = first + coefficients @ rest
    return center


def _holds(points: Array, center: Array, radius: float) -> bool:
    return bool((np.linalg.norm(points - center, axis=-1) <= radius * SLACK).all())
