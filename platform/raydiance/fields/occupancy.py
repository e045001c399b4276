# mypy: ignore-errors
"""Where a field is empty: by interpolation cell, and by block of cells, so that rays can leap over it."""

import numpy as np

from raydiance.fields.compiling import jit

__all__ = ["COARSE", "mark_blocks", "mark_cells"]

COARSE = 4  # cells along the edge of a block


@jit
def mark_cells(grid, first, last, occupied):
    """Cells first <= x < last of occupied [X-1, Y-1, Z-1] uint8: 1 where a corner has density, else 0.

    grid [X, Y, Z, C]. A NaN counts as density: it must show.
    """
    rows, columns = grid.shape[1], grid.shape[2]
    face = np.empty((2, rows, columns), np.uint8)
    for x in range(first, last + 1):
        here = face[x & 1]
        for y in range(rows):
            for z in range(columns):
                here[y, z] = not grid[x, y, z, 0] <= 0
        if x > first:
            for y in range(rows - 1):
                for z in range(columns - 1):
                    occupied[x - 1, y, z] = (
                        (face[0, y, z] | face[0, y, z + 1] | face[0, y + 1, z] | face[0, y + 1, z + 1])
                        | (face[1, y, z] | face[1, y, z + 1] | face[1, y + 1, z] | face[1, y + 1, z + 1])
                    )  # fmt: skip


@jit
def mark_blocks(occupied, away):
    """away [ceil((X-1) / 4), ..] uint8: distance to the nearest occupied block, in the maximum norm."""
    away[:] = 255
    for x in range(occupied.shape[0]):
        for y in range(occupied.shape[1]):
            for z in range(occupied.shape[2]):
                if occupied[x, y, z] != 0:
                    away[x // COARSE, y // COARSE, z // COARSE] = 0
    _sweep(away)
    _sweep(away[::-1, ::-1, ::-1])


@jit
def _sweep(away):
    """One of the two passes of a chamfer transform; with all weights 1 it is exact in the maximum norm."""
    for x in range(away.shape[0]):
        for y in range(away.shape[1]):
            for z in range(away.shape[2]):
                nearest = int(away[x, y, z])
                for other in range(13):  # the neighbours that come before
                    u, v, w = x + other // 9 - 1, y + other // 3 % 3 - 1, z + other % 3 - 1
                    if 0 <= u < away.shape[0] and 0 <= v < away.shape[1] and 0 <= w < away.shape[2]:
                        nearest = min(nearest, int(away[u, v, w]) + 1)
                away[x, y, z] = nearest
