# mypy: ignore-errors
"""Which triangle of an unwrapped mesh covers which texel."""

import math

from raydiance.fields.compiling import jit

__all__ = ["cover_texels"]


@jit
def cover_texels(texels, faces, face, weights):
    """face [H, W] = the triangle over each texel's centre, weights [H, W, 3] = its barycentric coordinates
    there.

    texels [N, 2]: corners in texels, (column, row). What no triangle covers is left as it was.
    """
    height, width = face.shape
    for index in range(faces.shape[0]):
        ax, ay = texels[faces[index, 0]]
        bx, by = texels[faces[index, 1]]
        cx, cy = texels[faces[index, 2]]
        area = (bx - ax) * (cy - ay) - (cx - ax) * (by - ay)
        if area == 0:
            continue
        top, bottom = max(math.floor(min(ay, by, cy)), 0), min(math.ceil(max(ay, by, cy)), height)
        left, right = max(math.floor(min(ax, bx, cx)), 0), min(math.ceil(max(ax, bx, cx)), width)
        for row in range(top, bottom):
            for column in range(left, right):
                x, y = column + 0.5, row + 0.5
                u = ((bx - x) * (cy - y) - (cx - x) * (by - y)) / area
                v = ((cx - x) * (ay - y) - (ax - x) * (cy - y)) / area
                w = 1 - u - v
                if u >= 0 and v >= 0 and w >= 0:
                    face[row, column] = index
                    weights[row, column, 0], weights[row, column, 1], weights[row, column, 2] = u, v, w
