# mypy: ignore-errors
"""The triton backend's kernels: a program marches a block of neighbouring rays, and stores no sample.

In both: grid [B, X, Y, Z, C]; harmonics [N or B * N, K], for K = (C - 1) / 3, the basis along each ray;
origins, directions [N or B * N, 3]; offset [B * N], the place of the samples in their segments; occupied
[B, X - 1, Y - 1, Z - 1] int8. All channels of a sample are a row of WIDTH >= C lanes; `mix` says which of them
make red, green and blue for this ray.
"""

import triton
import triton.language as tl

__all__ = ["march_backward", "march_forward"]


@triton.jit
def _slab(origin, direction, lower, upper):
    """Distances at which rays enter and leave the space between two planes."""
    parallel = direction == 0
    inverse = 1.0 / tl.where(parallel, 1.0, direction)
    one, two = (lower - origin) * inverse, (upper - origin) * inverse
    outside = (origin < lower) | (origin > upper)
    near, far = tl.where(outside, float("inf"), float("-inf")), tl.where(outside, float("-inf"), float("inf"))
    return tl.where(parallel, near, tl.minimum(one, two)), tl.where(parallel, far, tl.maximum(one, two))


@triton.jit
def _start(origins, directions, line, live, lower, upper, num_samples):
    """Origin and direction (x, y, z) of rays, their near and their segment length; length 0: box missed."""
    ox = tl.load(origins + 3 * line, mask=live, other=0.0)
    oy = tl.load(origins + 3 * line + 1, mask=live, other=0.0)
    oz = tl.load(origins + 3 * line + 2, mask=live, other=0.0)
    dx = tl.load(directions + 3 * line, mask=live, other=1.0)
    dy = tl.load(directions + 3 * line + 1, mask=live, other=1.0)
    dz = tl.load(directions + 3 * line + 2, mask=live, other=1.0)
    near_x, far_x = _slab(ox, dx, lower[0], upper[0])
    near_y, far_y = _slab(oy, dy, lower[1], upper[1])
    near_z, far_z = _slab(oz, dz, lower[2], upper[2])
    near = tl.maximum(tl.maximum(near_x, near_y), tl.maximum(near_z, 0.0))
    far = tl.minimum(tl.minimum(far_x, far_y), far_z)
    hit = (far > near) & live
    near = tl.where(hit, near, 0.0)
    return (ox, oy, oz), (dx, dy, dz), near, tl.where(hit, (far - near) / num_samples, 0.0)


@triton.jit
def _axis(position, lower, upper, size):
    """Cell along one axis and the fraction in it."""
    x = (position - lower) / (upper - lower) * (size - 1)
    cell = tl.minimum(tl.maximum(x.to(tl.int32), 0), size - 2)
    return cell, x - cell


@triton.jit
def _locate(origin, direction, t, lower, upper, size):
    """Cells and fractions (x, y, z) of the points at distance t."""
    cx, fx = _axis(origin[0] + t * direction[0], lower[0], upper[0], size[0])
    cy, fy = _axis(origin[1] + t * direction[1], lower[1], upper[1], size[1])
    cz, fz = _axis(origin[2] + t * direction[2], lower[2], upper[2], size[2])
    return (cx, cy, cz), (fx, fy, fz)


@triton.jit
def _corner(cell, fraction, size, channels, number: tl.constexpr):
    """Place of one of a cell's corners among one object's numbers, and its weight."""
    x, y, z = number // 4, number // 2 % 2, number % 2
    weight = (fraction[0] if x else 1 - fraction[0]) * (fraction[1] if y else 1 - fraction[1])
    weight *= fraction[2] if z else 1 - fraction[2]
    return (((cell[0] + x) * size[1] + cell[1] + y) * size[2] + cell[2] + z) * channels, weight


@triton.jit
def _sample(own, cell, fraction, size, channels, lane, look):
    """Rows [BLOCK, WIDTH] of interpolated channels; 0 where look is not set."""
    mask = look[:, None] & (lane < channels)[None, :]
    rows = tl.zeros(mask.shape, tl.float32)
    for number in tl.static_range(8):
        place, weight = _corner(cell, fraction, size, channels, number)
        rows += weight[:, None] * tl.load(own[:, None] + place[:, None] + lane[None, :], mask=mask, other=0.0)
    return rows


@triton.jit
def _mix(harmonics, line, live, lane, channels, count, colour: tl.constexpr):
    """Rows [BLOCK, WIDTH]: what each channel gives to one colour, along these rays."""
    counts = (lane >= 1) & (lane < channels) & ((lane + 2) % 3 == colour)
    place = line[:, None] * count + ((lane - 1) // 3)[None, :]
    return tl.load(harmonics + place, mask=live[:, None] & counts[None, :], other=0.0)


@triton.jit
def _absorb(density, length):
    """1 - exp(-tau) with tau = max(density, 0) * length; a NaN stays one."""
    tau = tl.where(density < 0, 0.0, density) * length
    series = tau * (1 - tau * (0.5 - tau * (1 / 6 - tau / 24)))
    return tl.where(tau < 0.01, series, 1 - tl.exp(-tau))


@triton.jit
def _look(occupied, index, cell, size, live, SKIP: tl.constexpr):
    """Which rays are in an occupied cell."""
    if SKIP:
        place = (cell[0] * (size[1] - 1) + cell[1]) * (size[2] - 1) + cell[2]
        cells = (size[0] - 1) * (size[1] - 1) * (size[2] - 1)
        return tl.load(occupied + index.to(tl.int64) * cells + place, mask=live, other=0) != 0
    return live


@triton.jit
def march_forward(
    grid, harmonics, origins, directions, offset, occupied, out,
    lower, upper, size, channels, num_rays, total, shared, num_samples, early_stop,
    BLOCK: tl.constexpr, WIDTH: tl.constexpr, SKIP: tl.constexpr,
):  # fmt: skip
    """out [B * N, 5] = sum w c (3), sum w, sum w t."""
    ray = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    live, lane = ray < total, tl.arange(0, WIDTH)
    index = ray // num_rays
    line = tl.where(shared != 0, ray - index * num_rays, ray)
    own = grid + index.to(tl.int64) * (size[0] * size[1] * size[2] * channels)
    origin, direction, near, length = _start(origins, directions, line, live, lower, upper, num_samples)
    place = tl.load(offset + ray, mask=live, other=0.0)
    count = (channels - 1) // 3
    mix_r = _mix(harmonics, line, live, lane, channels, count, 0)
    mix_g = _mix(harmonics, line, live, lane, channels, count, 1)
    mix_b = _mix(harmonics, line, live, lane, channels, count, 2)
    clear = tl.where(length > 0, 1.0, 0.0)
    red, green, blue, depth = clear * 0, clear * 0, clear * 0, clear * 0
    opacity = clear * 0
    i = 0
    while (i < num_samples) & (tl.max(clear, 0) > early_stop):
        t = near + (i + place) * length
        alive = live & (clear > early_stop)
        cell, fraction = _locate(origin, direction, t, lower, upper, size)
        look = _look(occupied, index, cell, size, alive, SKIP)
        if tl.max(look.to(tl.int32), 0) > 0:
            rows = _sample(own, cell, fraction, size, channels, lane, look)
            weight = clear * _absorb(tl.sum(tl.where(lane[None, :] == 0, rows, 0.0), 1), length)
            weight = tl.where(look, weight, 0.0)
            red += weight * tl.sum(rows * mix_r, 1)
            green += weight * tl.sum(rows * mix_g, 1)
            blue += weight * tl.sum(rows * mix_b, 1)
            opacity += weight
            depth += weight * t
            clear -= weight
        i += 1
    tl.store(out + 5 * ray, red, mask=live)
    tl.store(out + 5 * ray + 1, green, mask=live)
    tl.store(out + 5 * ray + 2, blue, mask=live)
    tl.store(out + 5 * ray + 3, opacity, mask=live)
    tl.store(out + 5 * ray + 4, depth, mask=live)


@triton.jit
def march_backward(
    grid, harmonics, origins, directions, offset, occupied, out, upstream, gradient,
    lower, upper, size, channels, num_rays, total, shared, num_samples, early_stop,
    BLOCK: tl.constexpr, WIDTH: tl.constexpr, SKIP: tl.constexpr,
):  # fmt: skip
    """Add the gradient of the grid, with out of march_forward and the gradient of it, upstream [B * N, 5].

    The rays are marched again. With g_i = g_c . c_i + g_o + g_t t_i, dL/dtau_i = T_{i+1} g_i - later_i, where
    later_i = sum_{j > i} w_j g_j = upstream . out - sum_{j <= i} w_j g_j, so that one way along a ray is
    enough; dL/dc_i = w_i g_c.
    """
    ray = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    live, lane = ray < total, tl.arange(0, WIDTH)
    index = ray // num_rays
    line = tl.where(shared != 0, ray - index * num_rays, ray)
    numbers = index.to(tl.int64) * (size[0] * size[1] * size[2] * channels)
    own, target = grid + numbers, gradient + numbers
    origin, direction, near, length = _start(origins, directions, line, live, lower, upper, num_samples)
    place = tl.load(offset + ray, mask=live, other=0.0)
    count = (channels - 1) // 3
    g_r = tl.load(upstream + 5 * ray, mask=live, other=0.0)
    g_g = tl.load(upstream + 5 * ray + 1, mask=live, other=0.0)
    g_b = tl.load(upstream + 5 * ray + 2, mask=live, other=0.0)
    g_o = tl.load(upstream + 5 * ray + 3, mask=live, other=0.0)
    g_t = tl.load(upstream + 5 * ray + 4, mask=live, other=0.0)
    later = g_r * tl.load(out + 5 * ray, mask=live, other=0.0)
    later += g_g * tl.load(out + 5 * ray + 1, mask=live, other=0.0)
    later += g_b * tl.load(out + 5 * ray + 2, mask=live, other=0.0)
    later += g_o * tl.load(out + 5 * ray + 3, mask=live, other=0.0)
    later += g_t * tl.load(out + 5 * ray + 4, mask=live, other=0.0)
    mixed = g_r[:, None] * _mix(harmonics, line, live, lane, channels, count, 0)
    mixed += g_g[:, None] * _mix(harmonics, line, live, lane, channels, count, 1)
    mixed += g_b[:, None] * _mix(harmonics, line, live, lane, channels, count, 2)
    clear = tl.where(length > 0, 1.0, 0.0)
    i = 0
    while (i < num_samples) & (tl.max(clear, 0) > early_stop):
        t = near + (i + place) * length
        alive = live & (clear > early_stop)
        cell, fraction = _locate(origin, direction, t, lower, upper, size)
        look = _look(occupied, index, cell, size, alive, SKIP)
        if tl.max(look.to(tl.int32), 0) > 0:
            rows = _sample(own, cell, fraction, size, channels, lane, look)
            density = tl.sum(tl.where(lane[None, :] == 0, rows, 0.0), 1)
            weight = tl.where(look, clear * _absorb(density, length), 0.0)
            gain = tl.sum(rows * mixed, 1) + g_o + g_t * t
            clear -= weight
            later -= weight * gain
            slope = tl.where(density < 0, 0.0, (clear * gain - later) * length)
            change = weight[:, None] * mixed + tl.where(lane[None, :] == 0, slope[:, None], 0.0)
            mask = look[:, None] & (lane < channels)[None, :]
            for number in tl.static_range(8):
                corner, share = _corner(cell, fraction, size, channels, number)
                where = target[:, None] + corner[:, None] + lane[None, :]
                tl.atomic_add(where, share[:, None] * change, mask=mask)
        i += 1
