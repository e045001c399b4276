"""Integrals of interpolating polynomials: the weights of every exact multistep formula."""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["Function", "lagrange_integrals"]

Function: TypeAlias = Callable[[NDArray[np.float64]], NDArray[np.float64]]


def lagrange_integrals(
    nodes: Sequence[float],
    start: float,
    end: float,
    *,
    variable: Function = lambda point: point,
    weight: Function = np.ones_like,
    num_points: int = 64,
) -> list[float]:
    """For each node j the integral from start to end of weight(u) l_j(variable(u)) du, by Gauss-Legendre
    quadrature.

    l_j is the Lagrange polynomial that is 1 at node j and 0 at the others; nodes are values of `variable`.
    """
    points, weights = _gauss_legendre(num_points)
    u = (start + end) / 2 + (end - start) / 2 * points
    at, measure = variable(u), weights * weight(u) * (end - start) / 2
    integrals = []
    for j, node in enumerate(nodes):
        factors = [(at - other) / (node - other) for k, other in enumerate(nodes) if k != j]
        integrals.append(float(np.sum(measure * np.prod(factors, axis=0))))
    return integrals


@lru_cache
def _gauss_legendre(num_points: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    return np.polynomial.legendre.leggauss(num_points)
