# mypy: ignore-errors
"""The numba backend's inner loops.

All kernels release the GIL and work on a range of rays or of grid planes, so that threads can share the work;
what they write does not depend on how it is cut. Each step along a ray is a loop of its own over a block of
samples, because then the compiler can vectorise it. Positions are float64 (a cell index must not jump by
rounding), samples and weights float32, transmittance float64. Types are inferred by numba, not by mypy.

In all of them: grid [B, X * Y * Z * C]; basis: None if C = 4, else room for the harmonics of a ray [9];
cells: X - 1, Y - 1, Z - 1; box [4, 3]: lower, upper, cells per unit of length, (unused, unused, num_samples);
origins, directions [B * N or N, 3]; offset [B * N] in [0, 1), the place of the samples in their segments;
ray: an index into B * N.
"""

import math

import numpy as np

from raydiance.fields.compiling import jit
from raydiance.fields.interpolation import add_weighted, load_sample, seen_basis, spread_sample, strides_of
from raydiance.fields.occupancy import COARSE

__all__ = ["march_backward", "march_dense", "march_skipping", "scatter_samples"]

BLOCK = 32  # samples worked on at a time


@jit
def _enter(origin, direction, box):
    """Near and segment length of a ray; in cells, its position at near and step. Length 0: box missed."""
    near, far = 0.0, math.inf
    for axis in range(3):
        if direction[axis] == 0.0:
            if origin[axis] < box[0, axis] or origin[axis] > box[1, axis]:
                far = -1.0
        else:
            inverse = 1.0 / np.float64(direction[axis])
            one, two = (box[0, axis] - origin[axis]) * inverse, (box[1, axis] - origin[axis]) * inverse
            near, far = max(near, min(one, two)), min(far, max(one, two))
    if not far > near:
        return 0.0, 0.0, (0.0, 0.0, 0.0), (0.0, 0.0, 0.0)
    length = (far - near) / box[3, 2]
    x = (origin[0] + near * direction[0] - box[0, 0]) * box[2, 0]
    y = (origin[1] + near * direction[1] - box[0, 1]) * box[2, 1]
    z = (origin[2] + near * direction[2] - box[0, 2]) * box[2, 2]
    dx, dy, dz = length * direction[0], length * direction[1], length * direction[2]
    return near, length, (x, y, z), (dx * box[2, 0], dy * box[2, 1], dz * box[2, 2])


@jit
def _scratch(count):
    """Room for count samples: their cells (base, x) and fractions (x, y, z), values, alpha, weights, bits."""
    places = np.empty(count, np.int64), np.empty(count, np.int32)
    fractions = np.empty(count, np.float32), np.empty(count, np.float32), np.empty(count, np.float32)
    alpha, weights = np.empty(count, np.float32), np.empty(count, np.float32)
    return places, fractions, np.empty(4 * count, np.float32), alpha, weights, np.empty(count, np.int32)


@jit
def _locate(start, step, cells, strides, along, offset, count, places, fractions):
    """Cells (index of the lowest corner, and x) and fractions in them of samples along[0] .. along[count - 1]."""
    base, plane = places
    fx, fy, fz = fractions
    channels, step_x, step_y = strides
    x0, y0, z0 = start
    dx, dy, dz = step
    last_x, last_y, last_z = np.int32(cells[0] - 1), np.int32(cells[1] - 1), np.int32(cells[2] - 1)
    for k in range(count):
        t = along[k] + offset
        x, y, z = x0 + t * dx, y0 + t * dy, z0 + t * dz
        ix = min(max(np.int32(x), np.int32(0)), last_x)
        iy = min(max(np.int32(y), np.int32(0)), last_y)
        iz = min(max(np.int32(z), np.int32(0)), last_z)
        fx[k], fy[k], fz[k] = x - ix, y - iy, z - iz
        base[k], plane[k] = ix * step_x + iy * step_y + iz * channels, ix


@jit
def _absorb(values, length, count, bits, alpha):
    """alpha[k] = 1 - exp(-tau) with tau = max(density, 0) * length, to full relative precision.

    exp(-tau) = 2^-n (1 + q) with n whole, q = expm1(r) and |r| <= ln(2) / 2. A NaN stays one.
    """
    power = bits.view(np.float32)
    for k in range(count):
        density = values[4 * k]
        tau = (density if not density < 0 else np.float32(0)) * length
        n = np.int32((tau if tau < 87 else np.float32(87)) * np.float32(1.44269504) + np.float32(0.5))
        r = (tau if not tau > 87 else np.float32(87)) - np.float32(n) * np.float32(0.693359375)
        r = -r - np.float32(n) * np.float32(2.12194440e-4)
        q = np.float32(1 / 720) + r * np.float32(1 / 5040)
        q = np.float32(1 / 120) + r * q
        q = np.float32(1 / 24) + r * q
        q = np.float32(1 / 6) + r * q
        q = np.float32(1 / 2) + r * q
        alpha[k] = r + r * r * q
        bits[k] = (np.int32(127) - n) << np.int32(23)
    for k in range(count):
        alpha[k] = (np.float32(1) - power[k]) - power[k] * alpha[k]


@jit
def march_dense(grid, basis, cells, box, origins, directions, offset, early_stop, begin, end, out):
    """Rays begin .. end: out [B * N, 5] = sum w c (3), sum w, sum w t."""
    num_rays = out.shape[0] // grid.shape[0]
    strides = strides_of(grid.shape[1], cells)
    num_samples = int(box[3, 2])
    counting = np.arange(num_samples).astype(np.float64)
    places, fractions, values, alpha, weights, bits = _scratch(BLOCK)
    base, (fx, fy, fz), sums = places[0], fractions, np.empty(4, np.float32)
    for ray in range(begin, end):
        index = ray // num_rays
        line = ray if origins.shape[0] == out.shape[0] else ray - index * num_rays
        near, length, start, step = _enter(origins[line], directions[line], box)
        seen_basis(directions[line], basis)
        own = grid[index]
        clear, depth = 1.0, 0.0
        sums[:] = 0
        first = 0 if length > 0 else num_samples
        while first < num_samples and not clear <= early_stop:
            count = min(BLOCK, num_samples - first)
            _locate(start, step, cells, strides, counting[first:], offset[ray], count, places, fractions)
            for k in range(count):
                load_sample(own, base[k], strides, fx[k], fy[k], fz[k], basis, values, 4 * k)
            _absorb(values, np.float32(length), count, bits, alpha)
            for k in range(count):
                weight = clear * alpha[k]
                weights[k] = weight
                depth += weight * counting[first + k]
                clear -= weight
                if clear <= early_stop:
                    count = k + 1
                    break
            add_weighted(sums, weights, values, count)
            first += count
        out[ray, :3], out[ray, 3] = sums[1:], 1 - clear
        out[ray, 4] = near * (1 - clear) + length * (depth + offset[ray] * (1 - clear))


@jit
def march_skipping(
    grid, basis, cells, box, origins, directions, offset, occupied, away, early_stop, begin, end, out
):
    """As march_dense, and bit for bit the same, but only samples in occupied cells are looked at.

    occupied: of mark_cells; away: of mark_blocks.
    """
    num_rays = out.shape[0] // grid.shape[0]
    strides = strides_of(grid.shape[1], cells)
    num_samples = int(box[3, 2])
    _, _, values, alpha, weights, bits = _scratch(8)
    along, sums = np.empty(8), np.empty(4, np.float32)
    for ray in range(begin, end):
        index = ray // num_rays
        line = ray if origins.shape[0] == out.shape[0] else ray - index * num_rays
        near, length, start, step = _enter(origins[line], directions[line], box)
        seen_basis(directions[line], basis)
        own, own_cells, own_blocks = grid[index], occupied[index], away[index]
        clear, depth = 1.0, 0.0
        sums[:] = 0
        i = 0 if length > 0 else num_samples
        while i < num_samples and not clear <= early_stop:
            count = 0
            while i < num_samples and count < 8:
                i, cell, x, y, z = _next_occupied(
                    i, num_samples, start, step, offset[ray], own_cells, own_blocks
                )
                if i < num_samples:
                    ix, iy, iz = cell
                    base = ix * strides[1] + iy * strides[2] + iz * strides[0]
                    fx, fy, fz = np.float32(x - ix), np.float32(y - iy), np.float32(z - iz)
                    load_sample(own, base, strides, fx, fy, fz, basis, values, 4 * count)
                    along[count] = i
                    count += 1
                    i += 1
            _absorb(values, np.float32(length), count, bits, alpha)
            for k in range(count):
                weight = clear * alpha[k]
                weights[k] = weight
                depth += weight * along[k]
                clear -= weight
                if clear <= early_stop:
                    count = k + 1
                    break
            add_weighted(sums, weights, values, count)
        out[ray, :3], out[ray, 3] = sums[1:], 1 - clear
        out[ray, 4] = near * (1 - clear) + length * (depth + offset[ray] * (1 - clear))


@jit
def _next_occupied(i, num_samples, start, step, offset, occupied, away):
    """The first sample from i on (or num_samples) in an occupied cell, the cell, and the position."""
    while i < num_samples:
        t = i + np.float64(offset)
        x, y, z = start[0] + t * step[0], start[1] + t * step[1], start[2] + t * step[2]
        ix = min(max(np.int32(x), np.int32(0)), np.int32(occupied.shape[0] - 1))
        iy = min(max(np.int32(y), np.int32(0)), np.int32(occupied.shape[1] - 1))
        iz = min(max(np.int32(z), np.int32(0)), np.int32(occupied.shape[2] - 1))
        bx, by, bz = ix // COARSE, iy // COARSE, iz // COARSE
        free = away[bx, by, bz]
        if free > 0:
            i += min(_leap(x, step[0], bx, free), _leap(y, step[1], by, free), _leap(z, step[2], bz, free))
        elif occupied[ix, iy, iz] != 0:
            return i, (ix, iy, iz), x, y, z
        else:
            i += 1
    return num_samples, (np.int32(0), np.int32(0), np.int32(0)), 0.0, 0.0, 0.0


@jit
def _leap(position, step, block, free):
    """Samples (>= 1) to the first one that may lie outside the empty blocks around, along one axis."""
    if step >= 0:
        border, step = (block + free) * COARSE - position, max(step, 1e-9)
    else:
        border, step = position - (block - free + 1) * COARSE, -step
    return int(min(border / step - 1e-6, 1e9)) + 1


@jit
def march_backward(
    grid, basis, cells, box, origins, directions, offset, occupied, away, early_stop, upstream,
    begin, end, out, kept, counts,
):  # fmt: skip
    """Gradients at the samples of rays begin .. end: out [end - begin, S, 4], for density and colour.

    upstream [B * N, 5] is the gradient of what march_dense wrote. counts [end - begin]: of the samples with a
    gradient, which come first in a row of out; kept [end - begin, S]: their places along the ray. occupied,
    away: of mark_cells and mark_blocks, or of length 0 if all cells are to be looked at.
    With g_i = g_c . c_i + g_o + g_t t_i, dL/dtau_i = T_{i+1} g_i - sum_{j > i} w_j g_j and dL/dc_i = w_i g_c.
    """
    num_rays = upstream.shape[0] // grid.shape[0]
    strides = strides_of(grid.shape[1], cells)
    num_samples = int(box[3, 2])
    places, (fx, fy, fz), values, alpha, weights, bits = _scratch(num_samples)
    base, plane = places
    along, after = np.empty(num_samples), np.empty(num_samples)
    gain = np.empty(num_samples, np.float32)
    for ray in range(begin, end):
        index = ray // num_rays
        line = ray if origins.shape[0] == upstream.shape[0] else ray - index * num_rays
        near, length, start, step = _enter(origins[line], directions[line], box)
        seen_basis(directions[line], basis)
        own, samples = grid[index], out[ray - begin]
        clear, count = 1.0, 0
        i = 0 if length > 0 else num_samples
        while i < num_samples and not clear <= early_stop:
            first = count
            while i < num_samples and count < first + BLOCK:
                if occupied.shape[0] > 0:
                    i = _next_occupied(
                        i, num_samples, start, step, offset[ray], occupied[index], away[index]
                    )[0]
                if i < num_samples:
                    along[count] = i
                    count += 1
                    i += 1
            size = count - first
            room = (base[first:], plane[first:]), (fx[first:], fy[first:], fz[first:])
            _locate(start, step, cells, strides, along[first:], offset[ray], size, room[0], room[1])
            for k in range(first, count):
                load_sample(own, base[k], strides, fx[k], fy[k], fz[k], basis, values, 4 * k)
            _absorb(values[4 * first :], np.float32(length), size, bits, alpha[first:])
            for k in range(first, count):
                weight = clear * alpha[k]
                weights[k] = weight
                clear -= weight
                after[k] = clear
                if clear <= early_stop:
                    count = k + 1
                    break
        counts[ray - begin] = count
        g_r, g_g, g_b, g_o, g_t = upstream[ray]
        g_o += g_t * np.float32(near + offset[ray] * length)
        g_t *= np.float32(length)
        for k in range(count):
            red, green, blue = values[4 * k + 1], values[4 * k + 2], values[4 * k + 3]
            gain[k] = g_r * red + g_g * green + g_b * blue + (g_o + g_t * np.float32(along[k]))
        later = 0.0
        for k in range(count - 1, -1, -1):
            alpha[k] = (after[k] * gain[k] - later) * length
            later += np.float64(weights[k]) * gain[k]
        for k in range(count):
            kept[ray - begin, k] = np.int32(along[k])
            samples[k, 0] = np.float32(0) if values[4 * k] < 0 else alpha[k]
            samples[k, 1], samples[k, 2], samples[k, 3] = weights[k] * g_r, weights[k] * g_g, weights[k] * g_b


@jit
def scatter_samples(
    samples, kept, counts, basis, cells, box, origins, directions, offset, rays, first_ray, planes, grid
):
    """Add the gradients at samples to some planes along x of one object's grid [X * Y * Z * C].

    samples, kept and counts: of march_backward, from first_ray on; rays: (begin, end, N), all of this object;
    planes: (lower, upper). Each plane gets its terms in the order of rays and samples, so that the sum does
    not depend on the cut into planes.
    """
    (begin, end, num_rays), (lower, upper) = rays, planes
    strides = strides_of(len(grid), cells)
    num_samples = int(box[3, 2])
    along = np.empty(num_samples)
    places, fractions, _, _, _, _ = _scratch(num_samples)
    (base, plane), (fx, fy, fz) = places, fractions
    flat = samples.reshape(-1)
    for ray in range(begin, end):
        count = counts[ray - first_ray]
        if count == 0:
            continue
        line = ray if origins.shape[0] == offset.shape[0] else ray % num_rays
        _, _, start, step = _enter(origins[line], directions[line], box)
        seen_basis(directions[line], basis)
        first, last = _crossing(start[0], step[0], offset[ray], lower - 1, upper)
        own = kept[ray - first_ray, :count]
        begins, size = 0, 0
        for k in range(count):
            if own[k] < first:
                begins += 1
            elif own[k] < last:
                along[size] = own[k]
                size += 1
        _locate(start, step, cells, strides, along, offset[ray], size, places, fractions)
        row = ((ray - first_ray) * num_samples + begins) * 4
        for k in range(size):
            if lower <= plane[k] < upper:
                spread_sample(
                    grid, base[k], strides, flat, row + 4 * k, np.float32(1) - fx[k], fy[k], fz[k], basis
                )
            if lower <= plane[k] + 1 < upper:
                spread_sample(
                    grid, base[k] + strides[1], strides, flat, row + 4 * k, fx[k], fy[k], fz[k], basis
                )


@jit
def _crossing(start, step, offset, lower, upper):
    """A range that has all samples k with lower <= start + (k + offset) * step <= upper."""
    if step == 0:
        return 0, 1 << 30
    one, two = (lower - start) / step - offset, (upper - start) / step - offset
    return int(max(min(one, two), -1e9)) - 1, int(min(max(one, two), 1e9)) + 2
