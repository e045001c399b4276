# mypy: ignore-errors
"""Trilinear interpolation and its transpose for the numba backend, all channels at once.

Four channels are one vector of LLVM's, loaded and stored whole; more (see `harmonics`) are plain loops.
strides: channels, floats from one sample of a grid to the next along x, and along y.
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from raydiance.fields.compiling import jit

__all__ = ["add_weighted", "load_sample", "seen_basis", "spread_sample", "strides_of"]

FLOAT, INDEX = ir.FloatType(), ir.IntType(32)
FOUR, EIGHT = ir.VectorType(FLOAT, 4), ir.VectorType(FLOAT, 8)


def _lanes(builder: Any, one: Any, two: Any, lanes: list[int]) -> Any:
    return builder.shuffle_vector(one, two, ir.Constant(ir.VectorType(INDEX, len(lanes)), lanes))


def _spread(builder: Any, scalar: Any, kind: Any) -> Any:
    """The scalar in every lane of a vector."""
    nothing = ir.Constant(kind, ir.Undefined)
    one = builder.insert_element(nothing, scalar, ir.Constant(INDEX, 0))
    return _lanes(builder, one, nothing, [0] * kind.count)


def _place(context: Any, builder: Any, array_type: Any, array: Any, offset: Any, kind: Any) -> Any:
    """Pointer to the vector that begins at array[offset]."""
    data = context.make_array(array_type)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [offset]), kind.as_pointer())


def _lerp(builder: Any, one: Any, two: Any, fraction: Any) -> Any:
    return builder.fadd(one, builder.fmul(fraction, builder.fsub(two, one)))


@intrinsic
def cell_load(typing_context, grid, base, step_x, step_y, fx, fy, fz, values, row):
    """values[row:row + 4] = the four channels in the cell whose lowest corner lies at grid[base]."""
    signature = types.void(grid, *[types.int64] * 3, *[types.float32] * 3, values, types.int64)

    def generate(context, builder, sig, args):
        array, base, step_x, step_y, fx, fy, fz, values, row = args

        def load(offset):  # two samples that are neighbours along z
            return builder.load(_place(context, builder, sig.args[0], array, offset, EIGHT), align=4)

        fx8, fy8, far = _spread(builder, fx, EIGHT), _spread(builder, fy, EIGHT), builder.add(base, step_x)
        low = _lerp(builder, load(base), load(far), fx8)
        high = _lerp(builder, load(builder.add(base, step_y)), load(builder.add(far, step_y)), fx8)
        pair = _lerp(builder, low, high, fy8)
        low_z, high_z = (_lanes(builder, pair, pair, lanes) for lanes in ([0, 1, 2, 3], [4, 5, 6, 7]))
        value = _lerp(builder, low_z, high_z, _spread(builder, fz, FOUR))
        builder.store(value, _place(context, builder, sig.args[7], values, row, FOUR), align=4)
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def plane_add(typing_context, grid, base, step_y, samples, row, weight, fy, fz):
    """Add weight * samples[row:row + 4] to the four corners of a cell's face from grid[base] on."""
    signature = types.void(grid, types.int64, types.int64, samples, types.int64, *[types.float32] * 3)

    def generate(context, builder, sig, args):
        array, base, step_y, samples, row, weight, fy, fz = args
        value = builder.load(_place(context, builder, sig.args[3], samples, row, FOUR), align=4)
        value = builder.fmul(value, _spread(builder, weight, FOUR))
        high_y = builder.fmul(value, _spread(builder, fy, FOUR))
        for offset, part in ((base, builder.fsub(value, high_y)), (builder.add(base, step_y), high_y)):
            high_z = builder.fmul(part, _spread(builder, fz, FOUR))
            next_z = builder.add(offset, ir.Constant(offset.type, 4))
            for corner, share in ((offset, builder.fsub(part, high_z)), (next_z, high_z)):
                place = _place(context, builder, sig.args[0], array, corner, FOUR)
                builder.store(builder.fadd(builder.load(place, align=4), share), place, align=4)
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def add_weighted(typing_context, sums, weights, values, count):
    """sums[:4] += weights[k] * values[4 k:4 k + 4] for each k < count, one after the other."""
    signature = types.void(sums, weights, values, types.int64)

    def generate(context, builder, sig, args):
        sums, weights, values, count = args
        place = _place(context, builder, sig.args[0], sums, ir.Constant(count.type, 0), FOUR)
        total = cgutils.alloca_once_value(builder, builder.load(place, align=4))
        with cgutils.for_range(builder, count) as loop:
            weight = context.make_array(sig.args[1])(context, builder, weights).data
            weight = _spread(builder, builder.load(builder.gep(weight, [loop.index])), FOUR)
            row = builder.mul(loop.index, ir.Constant(count.type, 4))
            value = builder.load(_place(context, builder, sig.args[2], values, row, FOUR), align=4)
            builder.store(builder.fadd(builder.load(total), builder.fmul(weight, value)), total)
        builder.store(builder.load(total), place, align=4)
        return context.get_dummy_value()

    return signature, generate


@jit
def seen_basis(direction, basis):
    """harmonics.basis of a unit direction, into basis [9], if the field needs it."""
    if basis is None:
        return
    x, y, z = direction
    basis[0] = 1.0
    basis[1], basis[2], basis[3] = 0.4886025119029199 * y, 0.4886025119029199 * z, 0.4886025119029199 * x
    basis[4], basis[5] = 1.0925484305920792 * x * y, 1.0925484305920792 * y * z
    basis[6] = 0.31539156525252005 * (3 * z * z - 1)
    basis[7], basis[8] = 1.0925484305920792 * x * z, 0.5462742152960396 * (x * x - y * y)


@jit
def _cell_load_seen(grid, base, step_x, step_y, channels, fx, fy, fz, basis, values, row):
    """values[row:row + 4] = density and the colour seen, as cell_load for any number of channels."""
    one = np.float32(1)
    for c in range(4):
        values[row + c] = 0
    for corner in range(8):
        x, y, z = corner >> 2, corner >> 1 & 1, corner & 1
        weight = (fx if x else one - fx) * (fy if y else one - fy) * (fz if z else one - fz)
        place = base + x * step_x + y * step_y + z * channels
        values[row] += weight * grid[place]
        for k in range(channels // 3):
            share = weight * basis[k]
            for c in range(3):
                values[row + 1 + c] += share * grid[place + 1 + 3 * k + c]


@jit
def _plane_add_seen(grid, base, step_y, channels, samples, row, weight, fy, fz, basis):
    """As plane_add for any number of channels."""
    one = np.float32(1)
    for corner in range(4):
        y, z = corner >> 1, corner & 1
        part = weight * (fy if y else one - fy) * (fz if z else one - fz)
        place = base + y * step_y + z * channels
        grid[place] += part * samples[row]
        for k in range(channels // 3):
            share = part * basis[k]
            for c in range(3):
                grid[place + 1 + 3 * k + c] += share * samples[row + 1 + c]


@jit
def strides_of(size, cells):
    """Channels, and floats from one sample of a grid to the next along x and along y."""
    channels = size // ((cells[0] + 1) * (cells[1] + 1) * (cells[2] + 1))
    return channels, (cells[1] + 1) * (cells[2] + 1) * channels, (cells[2] + 1) * channels


@jit
def load_sample(grid, base, strides, fx, fy, fz, basis, values, row):
    """values[row:row + 4] = density and colour in the cell whose lowest corner lies at grid[base]."""
    channels, step_x, step_y = strides
    if basis is None:
        cell_load(grid, base, step_x, step_y, fx, fy, fz, values, row)
    else:
        _cell_load_seen(grid, base, step_x, step_y, channels, fx, fy, fz, basis, values, row)


@jit
def spread_sample(grid, base, strides, samples, row, weight, fy, fz, basis):
    """Add weight * samples[row:row + 4], gradients, to the corners of a cell's face from grid[base] on."""
    channels, _, step_y = strides
    if basis is None:
        plane_add(grid, base, step_y, samples, row, weight, fy, fz)
    else:
        _plane_add_seen(grid, base, step_y, channels, samples, row, weight, fy, fz, basis)
