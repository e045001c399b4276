# mypy: ignore-errors
"""The numba backend's inner loops: scalar code over rays, four channels at a time.

All kernels release the GIL and work on a range of rays or of grid planes, so that threads can share the
work; what they write does not depend on how it is cut. Positions are float64 (a cell index must not jump by
rounding), samples and weights float32, sums along a ray float64. Types are inferred by numba, not by mypy.
"""

import math
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

__all__ = ["cell_occupancy", "march_backward", "march_forward", "scatter_samples"]

FLOAT = ir.FloatType()
FOUR, EIGHT = ir.VectorType(FLOAT, 4), ir.VectorType(FLOAT, 8)
LOW, HIGH, TWICE = (
    ir.Constant(ir.VectorType(ir.IntType(32), len(lanes)), lanes)
    for lanes in ([0, 1, 2, 3], [4, 5, 6, 7], [0, 1, 2, 3, 0, 1, 2, 3])
)


def jit(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile on first call; kept in numba's cache where one can be written, else for this process only."""
    try:
        return numba.njit(cache=True, nogil=True, error_model="numpy")(function)
    except RuntimeError:  # numba finds no folder for its cache
        return numba.njit(nogil=True, error_model="numpy")(function)


def _spread(builder: Any, scalar: Any, kind: Any) -> Any:
    """The scalar in every lane of a vector."""
    one = builder.insert_element(ir.Constant(kind, ir.Undefined), scalar, ir.Constant(ir.IntType(32), 0))
    lanes = ir.Constant(ir.VectorType(ir.IntType(32), kind.count), [0] * kind.count)
    return builder.shuffle_vector(one, ir.Constant(kind, ir.Undefined), lanes)


def _half(builder: Any, vector: Any, lanes: Any) -> Any:
    return builder.shuffle_vector(vector, ir.Constant(vector.type, ir.Undefined), lanes)


def _pair(context: Any, builder: Any, array_type: Any, array: Any, offset: Any) -> Any:
    """Pointer to the eight floats from `offset` on: all channels of two neighbours along z."""
    data = context.make_array(array_type)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [offset]), EIGHT.as_pointer())


def _lerp(builder: Any, one: Any, two: Any, fraction: Any) -> Any:
    return builder.fadd(one, builder.fmul(fraction, builder.fsub(two, one)))


@intrinsic
def cell_sample(typing_context, grid, base, step_x, step_y, fx, fy, fz):
    """The four channels, trilinear in the cell whose lowest corner lies at grid[base]."""
    signature = types.UniTuple(types.float32, 4)(
        grid, types.int64, types.int64, types.int64, types.float32, types.float32, types.float32
    )

    def generate(context, builder, sig, args):
        array, base, step_x, step_y, fx, fy, fz = args

        def load(offset):
            return builder.load(_pair(context, builder, sig.args[0], array, offset), align=4)

        fx8, fy8 = _spread(builder, fx, EIGHT), _spread(builder, fy, EIGHT)
        far = builder.add(base, step_x)
        low = _lerp(builder, load(base), load(far), fx8)
        high = _lerp(builder, load(builder.add(base, step_y)), load(builder.add(far, step_y)), fx8)
        pair = _lerp(builder, low, high, fy8)
        value = _lerp(
            builder, _half(builder, pair, LOW), _half(builder, pair, HIGH), _spread(builder, fz, FOUR)
        )
        lanes = [builder.extract_element(value, ir.Constant(ir.IntType(32), i)) for i in range(4)]
        return cgutils.pack_array(builder, lanes)

    return signature, generate


@intrinsic
def plane_add(typing_context, grid, base, step_y, samples, row, weight, fy, fz):
    """Add weight * samples[row:row + 4] to the four corners of a cell's face from grid[base] on."""
    signature = types.void(
        grid, types.int64, types.int64, samples, types.int64, types.float32, types.float32, types.float32
    )

    def generate(context, builder, sig, args):
        array, base, step_y, samples, row, weight, fy, fz = args
        data = context.make_array(sig.args[3])(context, builder, samples).data
        pointer = builder.bitcast(builder.gep(data, [row]), FOUR.as_pointer())
        value = builder.fmul(builder.load(pointer, align=4), _spread(builder, weight, FOUR))
        high_z = builder.fmul(value, _spread(builder, fz, FOUR))
        low_z = builder.fsub(value, high_z)
        both = builder.shuffle_vector(
            low_z, high_z, ir.Constant(ir.VectorType(ir.IntType(32), 8), list(range(8)))
        )
        high_y = builder.fmul(both, _spread(builder, fy, EIGHT))
        for offset, part in ((base, builder.fsub(both, high_y)), (builder.add(base, step_y), high_y)):
            corner = _pair(context, builder, sig.args[0], array, offset)
            builder.store(builder.fadd(builder.load(corner, align=4), part), corner, align=4)
        return context.get_dummy_value()

    return signature, generate


@jit
def _enter(origin, direction, box, start, step):
    """Near and far of one ray; writes its first sample's position and its step (offset 0), in cells.

    box [4, 3]: lower, upper, cells per unit length, (unused, unused, num_samples).
    """
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
        return 0.0, 0.0
    length = (far - near) / box[3, 2]
    for axis in range(3):
        start[axis] = (origin[axis] + near * direction[axis] - box[0, axis]) * box[2, axis]
        step[axis] = length * direction[axis] * box[2, axis]
    return near, length


@jit
def _split(position, cells):
    """The cell (0 .. cells - 1) of a position along one axis, and the fraction inside it."""
    cell = min(max(int(position), 0), cells - 1)
    return cell, np.float32(position - cell)


@jit
def _absorbed(tau):
    """1 - exp(-tau), to full relative precision also where tau is small."""
    if tau < 0.25:
        t = np.float64(tau)
        return t * (1 - t / 2 * (1 - t / 3 * (1 - t / 4 * (1 - t / 5 * (1 - t / 6 * (1 - t / 7))))))
    return 1.0 - math.exp(-np.float64(tau))


@jit
def cell_occupancy(grid, occupied):
    """occupied [X-1, Y-1, Z-1] uint8: 1 where a corner of the cell has density or NaN; grid [X, Y, Z, 4]."""
    occupied[:] = 0
    for x in range(grid.shape[0]):
        for y in range(grid.shape[1]):
            for z in range(grid.shape[2]):
                if not grid[x, y, z, 0] <= 0:
                    occupied[max(x - 1, 0) : x + 1, max(y - 1, 0) : y + 1, max(z - 1, 0) : z + 1] = 1


@jit
def march_forward(grid, cells, box, origins, directions, offset, occupied, early_stop, begin, end, out):
    """Rays begin .. end of all B * N: out [B * N, 5] = sum w c (3), sum w, sum w t.

    grid [B, X * Y * Z * 4]; cells: per axis; origins, directions [B * N or N, 3]; offset [B * N] in [0, 1);
    occupied [B, X-1, Y-1, Z-1], or of length 0: every cell is looked at.
    """
    num_rays = out.shape[0] // grid.shape[0]
    step_y = (cells[2] + 1) * 4
    step_x = (cells[1] + 1) * step_y
    num_samples = int(box[3, 2])
    start, step = np.empty(3), np.empty(3)
    for ray in range(begin, end):
        index = ray // num_rays
        line = ray if origins.shape[0] == out.shape[0] else ray - index * num_rays
        near, length = _enter(origins[line], directions[line], box, start, step)
        values = grid[index]
        transmittance, red, green, blue, depth = 1.0, 0.0, 0.0, 0.0, 0.0
        for i in range(num_samples if length > 0 else 0):
            along = i + offset[ray]
            x, fx = _split(start[0] + along * step[0], cells[0])
            y, fy = _split(start[1] + along * step[1], cells[1])
            z, fz = _split(start[2] + along * step[2], cells[2])
            if occupied.shape[0] > 0 and occupied[index, x, y, z] == 0:
                continue
            density, r, g, b = cell_sample(
                values, x * step_x + y * step_y + z * 4, step_x, step_y, fx, fy, fz
            )
            if density <= 0:
                continue
            weight = transmittance * _absorbed(density * length)
            red += weight * r
            green += weight * g
            blue += weight * b
            depth += weight * (near + along * length)
            transmittance -= weight
            if transmittance < early_stop:
                break
        out[ray, 0], out[ray, 1], out[ray, 2] = red, green, blue
        out[ray, 3], out[ray, 4] = 1.0 - transmittance, depth


@jit
def march_backward(
    grid, cells, box, origins, directions, offset, occupied, early_stop, upstream, begin, end, out
):
    """Gradients at the samples of rays begin .. end: out [end - begin, S, 4], for density and colour.

    As march_forward; upstream [B * N, 5] is the gradient of its output. With g_i = g_c . c_i + g_o + g_t t_i,
    dL/dtau_i = T_{i+1} g_i - sum_{j > i} w_j g_j and dL/dc_i = w_i g_c.
    """
    num_rays = upstream.shape[0] // grid.shape[0]
    step_y = (cells[2] + 1) * 4
    step_x = (cells[1] + 1) * step_y
    num_samples = int(box[3, 2])
    start, step = np.empty(3), np.empty(3)
    weights, after = np.empty(num_samples), np.empty(num_samples)
    for ray in range(begin, end):
        index = ray // num_rays
        line = ray if origins.shape[0] == upstream.shape[0] else ray - index * num_rays
        near, length = _enter(origins[line], directions[line], box, start, step)
        values, samples = grid[index], out[ray - begin]
        samples[:] = 0
        transmittance, last = 1.0, 0
        for i in range(num_samples if length > 0 else 0):
            along = i + offset[ray]
            x, fx = _split(start[0] + along * step[0], cells[0])
            y, fy = _split(start[1] + along * step[1], cells[1])
            z, fz = _split(start[2] + along * step[2], cells[2])
            last = i + 1
            weights[i], after[i] = 0.0, transmittance
            if occupied.shape[0] > 0 and occupied[index, x, y, z] == 0:
                after[i] = -1.0
                continue
            density, r, g, b = cell_sample(
                values, x * step_x + y * step_y + z * 4, step_x, step_y, fx, fy, fz
            )
            samples[i, 1], samples[i, 2], samples[i, 3] = r, g, b
            if density < 0:
                after[i] = -1.0
                continue
            weights[i] = transmittance * _absorbed(density * length)
            transmittance -= weights[i]
            after[i] = transmittance
            if transmittance < early_stop:
                break
        suffix = 0.0
        g_r, g_g, g_b, g_o, g_t = upstream[ray]
        for i in range(last - 1, -1, -1):
            sample, weight = samples[i], weights[i]
            if after[i] < 0:
                sample[:] = 0
                continue
            gain = (
                g_r * sample[1]
                + g_g * sample[2]
                + g_b * sample[3]
                + g_o
                + g_t * (near + (i + offset[ray]) * length)
            )
            sample[0] = (after[i] * gain - suffix) * length
            suffix += weight * gain
            sample[1], sample[2], sample[3] = weight * g_r, weight * g_g, weight * g_b


@jit
def scatter_samples(
    samples, cells, box, origins, directions, offset, num_rays, begin, end, index, lower, upper, grid
):
    """Add the gradients at samples [end - begin, S, 4] to planes lower <= x < upper of grid [X * Y * Z * 4]
    of object `index`.

    Each plane gets its terms in the order of rays and samples, so the sum does not depend on the cut into
    planes.
    """
    step_y = (cells[2] + 1) * 4
    step_x = (cells[1] + 1) * step_y
    num_samples = int(box[3, 2])
    start, step = np.empty(3), np.empty(3)
    flat = samples.reshape(-1)
    for ray in range(max(begin, index * num_rays), min(end, (index + 1) * num_rays)):
        line = ray if origins.shape[0] == offset.shape[0] else ray - index * num_rays
        _, length = _enter(origins[line], directions[line], box, start, step)
        for i in range(num_samples if length > 0 else 0):
            along = i + offset[ray]
            x, fx = _split(start[0] + along * step[0], cells[0])
            if x < lower - 1 or x >= upper:
                continue
            y, fy = _split(start[1] + along * step[1], cells[1])
            z, fz = _split(start[2] + along * step[2], cells[2])
            base = x * step_x + y * step_y + z * 4
            row = ((ray - begin) * num_samples + i) * 4
            if x >= lower:
                plane_add(grid, base, step_y, flat, row, np.float32(1) - fx, fy, fz)
            if x + 1 < upper:
                plane_add(grid, base + step_x, step_y, flat, row, fx, fy, fz)
