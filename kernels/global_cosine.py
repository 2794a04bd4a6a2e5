"""Cosine of one vector of all layers: partial sums in one launch, which every program of the next adds up in full."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from .common import compile_options
from .pair_table import chunk_of
from .pairs import batches_of, class_size, cosine, load_pair, options_of, store_grad

BLOCK = 4096
"""Elements per program."""
SUM_BLOCK = 1024
"""Partials added at a time."""


@triton.jit
def in_float_range(squares):
    """True where fp32 holds a sum of squares as well as fp64: no term that matters is infinite or subnormal."""
    return (squares > 8.077935669463161e-28) & (squares < 1.7014118346046923e38)


@triton.jit
def value_scale(factor):
    """A power of two by which values are multiplied, and their factor divided, so that fp32 holds both."""
    size = tl.abs(factor)
    small = (size < 1.1754943508222875e-38) & (size > 0)  # 2^-126
    return tl.where(small, tl.where(size < 6.525304467998525e-55, 7.52316384526264e-37, 5.421010862427522e-20), 1.0)


@triton.jit
def _product_kernel(
    Partials_ptr,  # OUT (G, 3, n_partials) float64: <x,y>, <x,x>, <y,y>
    n_partials,
    first_partial,
    table,
    X_TYPE: tl.constexpr,
    Y_TYPE: tl.constexpr,
    MEAN: tl.constexpr,
    ALIGNED: tl.constexpr,
    COLUMNS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """global_cos: the sums over one chunk of one class."""
    block = tl.program_id(0)
    group = tl.program_id(1).to(tl.int64)
    column, position = chunk_of(table, block, COLUMNS, BLOCK)
    inside = position < class_size(table, column, ALIGNED, COLUMNS)
    x, y = load_pair(table, column, group, position, inside, X_TYPE, Y_TYPE, MEAN, ALIGNED, COLUMNS)
    xy = tl.sum(x * y, axis=0).to(tl.float64)
    xx = tl.sum(x * x, axis=0).to(tl.float64)
    yy = tl.sum(y * y, axis=0).to(tl.float64)
    if not (in_float_range(xx) & in_float_range(yy)):
        wide_x = x.to(tl.float64)
        wide_y = y.to(tl.float64)
        xy = tl.sum(wide_x * wide_y, axis=0)
        xx = tl.sum(wide_x * wide_x, axis=0)
        yy = tl.sum(wide_y * wide_y, axis=0)
    partial = Partials_ptr + group * 3 * n_partials + first_partial + block
    tl.store(partial, xy)
    tl.store(partial + n_partials, xx)
    tl.store(partial + 2 * n_partials, yy)


@triton.jit
def _global_cosine_kernel(
    Partials_ptr,  # IN (G, 3, n_partials) float64
    Distance_ptr,  # OUT (G,)
    PerLayer_ptr,  # OUT (G, 1)
    n_partials,
    table,
    X_TYPE: tl.constexpr,
    Y_TYPE: tl.constexpr,
    MEAN: tl.constexpr,
    WITH_GRAD: tl.constexpr,
    ALIGNED: tl.constexpr,
    COLUMNS: tl.constexpr,
    BLOCK: tl.constexpr,
    SUM_BLOCK: tl.constexpr,
):
    """global_cos: every program adds up all partials of the class, then computes the derivative over one chunk."""
    block = tl.program_id(0)
    group = tl.program_id(1).to(tl.int64)
    xy = tl.zeros([SUM_BLOCK], tl.float64)
    xx = tl.zeros([SUM_BLOCK], tl.float64)
    yy = tl.zeros([SUM_BLOCK], tl.float64)
    for begin in range(0, n_partials, SUM_BLOCK):
        i = begin + tl.arange(0, SUM_BLOCK)
        partials = Partials_ptr + group * 3 * n_partials + i
        xy += tl.load(partials, mask=i < n_partials, other=0.0)
        xx += tl.load(partials + n_partials, mask=i < n_partials, other=0.0)
        yy += tl.load(partials + 2 * n_partials, mask=i < n_partials, other=0.0)
    distance, along_x, along_y = cosine(tl.sum(xy, axis=0), tl.sum(xx, axis=0), tl.sum(yy, axis=0))
    if block == 0:
        tl.store(Distance_ptr + group, distance.to(tl.float32))
        tl.store(PerLayer_ptr + group, distance.to(tl.float32))
    if WITH_GRAD:
        column, position = chunk_of(table, block, COLUMNS, BLOCK)
        inside = position < class_size(table, column, ALIGNED, COLUMNS)
        x, y = load_pair(table, column, group, position, inside, X_TYPE, Y_TYPE, MEAN, ALIGNED, COLUMNS)
        x_scale = value_scale(along_x)
        y_scale = value_scale(along_y)
        x_slope = (along_x / x_scale).to(tl.float32) * (x * x_scale.to(tl.float32))
        y_slope = (along_y / y_scale).to(tl.float32) * (y * y_scale.to(tl.float32))
        slope = x_slope + y_slope
        store_grad(table, column, group, position, inside, slope, Y_TYPE, MEAN, ALIGNED, COLUMNS)


def global_cosine(table: Sequence[tuple[int, ...]], n_groups: int, distance: Tensor, per_layer: Tensor) -> None:
    """Compute ``global_cos``; the arguments are those of :func:`dream_accel.kernels.gradient_distance`."""
    blocks = [triton.cdiv(rows * length, BLOCK) for _, _, _, rows, length, *_ in table]
    n_partials = sum(blocks)
    partials = torch.empty((n_groups, 3, n_partials), dtype=torch.float64, device=distance.device)
    todo = [batch for batch in batches_of(table, blocks) if sum(batch.blocks)]
    for batch in todo:
        options = options_of(table, batch)
        del options["WITH_GRAD"]
        _product_kernel[(sum(batch.blocks), n_groups)](
            partials, n_partials, batch.before, batch.table, **options, BLOCK=BLOCK, **compile_options(8)
        )
    with_grads = bool(todo) and any(of_layer[2] for of_layer in table)
    # Without derivatives one program per class is enough, whichever layers are in its table.
    for batch in todo if with_grads else list(batches_of(table, blocks))[:1]:
        options = {**options_of(table, batch), "WITH_GRAD": with_grads}
        _global_cosine_kernel[(sum(batch.blocks) if with_grads else 1, n_groups)](
            partials,
            distance,
            per_layer,
            n_partials,
            batch.table,
            **options,
            BLOCK=BLOCK,
            SUM_BLOCK=SUM_BLOCK,
            **compile_options(8),
        )
