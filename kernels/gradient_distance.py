"""Distances of gradients and of mean features, with their derivatives: two launches over all layers and classes.

The first launch reads every element once (twice for the cosine of rows, the second time from the cache), writes the
derivative, and leaves one partial sum per program; the second adds those up in index order.

Cosines are formed in float64: the rows of a 1-d parameter have one element, and the two parts of their derivative
cancel to the last digits.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from .common import compile_options, on_device_of
from .global_cosine import global_cosine
from .pair_table import chunk_of, column_of, field
from .pairs import LENGTH, batches_of, class_size, cosine, load_pair, options_of, store_grad

BLOCK = 4096
"""Elements per program, for metrics that do not work by rows."""
ROW_BLOCK = 1024
"""Elements of a row that a program holds at a time."""
SUM_BLOCK = 1024
"""Partials added at a time."""


@triton.jit
def _difference_kernel(
    Partials_ptr,  # OUT (G, n_partials) float64
    n_partials,
    first_partial,
    table,
    X_TYPE: tl.constexpr,
    Y_TYPE: tl.constexpr,
    SQUARE: tl.constexpr,
    ROW_MEAN: tl.constexpr,
    MEAN: tl.constexpr,
    WITH_GRAD: tl.constexpr,
    ALIGNED: tl.constexpr,
    COLUMNS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """mse, l1, l1_mean: partial sum and derivative of one chunk of one class."""
    block = tl.program_id(0)
    group = tl.program_id(1).to(tl.int64)
    column, position = chunk_of(table, block, COLUMNS, BLOCK)
    length = field(table, column, LENGTH, COLUMNS).to(tl.int32)
    inside = position < class_size(table, column, ALIGNED, COLUMNS)
    x, y = load_pair(table, column, group, position, inside, X_TYPE, Y_TYPE, MEAN, ALIGNED, COLUMNS)
    difference = y - x
    if SQUARE:
        term = difference * difference
        slope = 2 * difference
    else:
        term = tl.abs(difference)
        slope = tl.where(difference > 0, 1.0, tl.where(difference < 0, -1.0, 0.0))
    total = tl.sum(term, axis=0).to(tl.float64)
    if ROW_MEAN:
        total = total / length
        slope = slope / length.to(tl.float32)
    tl.store(Partials_ptr + group * n_partials + first_partial + block, total)
    if WITH_GRAD:
        store_grad(table, column, group, position, inside, slope, Y_TYPE, MEAN, ALIGNED, COLUMNS)


@triton.jit
def _row_cosine_kernel(
    Partials_ptr,  # OUT (G, n_partials) float64
    n_partials,
    first_partial,
    table,
    X_TYPE: tl.constexpr,
    Y_TYPE: tl.constexpr,
    MEAN: tl.constexpr,
    WITH_GRAD: tl.constexpr,
    ALIGNED: tl.constexpr,
    COLUMNS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """cos: distance and derivative of one row of one class."""
    block = tl.program_id(0)
    group = tl.program_id(1).to(tl.int64)
    column = column_of(table, block, COLUMNS)
    length = field(table, column, LENGTH, COLUMNS).to(tl.int32)
    first = (block - field(table, column, 0, COLUMNS).to(tl.int32)) * length
    xy = tl.zeros([BLOCK], tl.float64)
    xx = tl.zeros([BLOCK], tl.float64)
    yy = tl.zeros([BLOCK], tl.float64)
    for begin in range(0, length, BLOCK):
        i = begin + tl.arange(0, BLOCK)
        x, y = load_pair(table, column, group, first + i, i < length, X_TYPE, Y_TYPE, MEAN, ALIGNED, COLUMNS)
        x = x.to(tl.float64)
        y = y.to(tl.float64)
        xy += x * y
        xx += x * x
        yy += y * y
    distance, along_x, along_y = cosine(tl.sum(xy, axis=0), tl.sum(xx, axis=0), tl.sum(yy, axis=0))
    tl.store(Partials_ptr + group * n_partials + first_partial + block, distance)
    if WITH_GRAD:
        for begin in range(0, length, BLOCK):
            i = begin + tl.arange(0, BLOCK)
            x, y = load_pair(table, column, group, first + i, i < length, X_TYPE, Y_TYPE, MEAN, ALIGNED, COLUMNS)
            slope = (along_x * x.to(tl.float64) + along_y * y.to(tl.float64)).to(tl.float32)
            store_grad(table, column, group, first + i, i < length, slope, Y_TYPE, MEAN, ALIGNED, COLUMNS)


@triton.jit
def _layer_sum_kernel(
    Partials_ptr,  # IN  (G, n_partials) float64
    Distance_ptr,  # OUT (G,), the sum of this launch's layers, and of the earlier ones unless FIRST
    PerLayer_ptr,  # OUT (G, n_layers), the columns of this launch
    n_partials,
    first_partial,
    n_blocks,
    longest,  # most partials of a layer
    n_layers,
    first_layer,
    own_layers,
    table,
    FIRST: tl.constexpr,
    ONE_COLUMN: tl.constexpr,  # per_layer is (G, 1), the distance
    COLUMNS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Sums of the partials of every layer of one class, in index order."""
    group = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, COLUMNS)
    begin = tl.zeros([COLUMNS], tl.int32)
    end = tl.zeros([COLUMNS], tl.int32) + n_blocks
    for i in tl.static_range(1, COLUMNS):
        begin = tl.where(column == i, table[i], begin).to(tl.int32)
        end = tl.where(column == i - 1, table[i], end).to(tl.int32)
    total = tl.zeros([COLUMNS, BLOCK], tl.float64)
    for b in range(0, longest, BLOCK):
        index = begin[:, None] + b + tl.arange(0, BLOCK)[None, :]
        partials = Partials_ptr + group * n_partials + first_partial + index
        total += tl.load(partials, mask=index < end[:, None], other=0.0)
    of_layer = tl.sum(total, axis=1)
    distance = tl.sum(of_layer, axis=0).to(tl.float32)
    if not FIRST:
        distance += tl.load(Distance_ptr + group)
    tl.store(Distance_ptr + group, distance)
    if ONE_COLUMN:
        tl.store(PerLayer_ptr + group, distance)
    else:
        columns = PerLayer_ptr + group * n_layers + first_layer + column
        tl.store(columns, of_layer.to(tl.float32), mask=column < own_layers)


def gradient_distance(
    table: Sequence[tuple[int, ...]], n_groups: int, metric: str, distance: Tensor, per_layer: Tensor
) -> None:
    """Compute the distances of all layers and classes, and the derivatives that the table has an address for.

    Args:
        table: the fields of ``csrc/gradient_pair.h`` for every layer.
        n_groups: G.
        metric: of :data:`dream_accel.ops.METRICS`.
        distance: (G,) float32, OUT.
        per_layer: (G, L) float32, or (G, 1) for the global metrics, OUT.
    """
    if n_groups == 0:
        return
    with on_device_of(distance):
        if metric == "global_cos":
            global_cosine(table, n_groups, distance, per_layer)
        else:
            _by_layer(table, n_groups, metric, distance, per_layer)


def _by_layer(
    table: Sequence[tuple[int, ...]], n_groups: int, metric: str, distance: Tensor, per_layer: Tensor
) -> None:
    blocks = [rows if metric == "cos" else triton.cdiv(rows * length, BLOCK) for _, _, _, rows, length, *_ in table]
    n_partials = sum(blocks)
    partials = torch.empty((n_groups, n_partials), dtype=torch.float64, device=distance.device)
    for batch in batches_of(table, blocks):
        options = options_of(table, batch)
        arguments = (partials, n_partials, batch.before, batch.table)
        grid = (sum(batch.blocks), n_groups)
        if grid[0] and metric == "cos":
            _row_cosine_kernel[grid](*arguments, **options, BLOCK=ROW_BLOCK, **compile_options(4))
        elif grid[0]:
            square, row_mean = metric.endswith("mse"), metric == "l1_mean"
            _difference_kernel[grid](
                *arguments, **options, SQUARE=square, ROW_MEAN=row_mean, BLOCK=BLOCK, **compile_options(8)
            )
        _layer_sum_kernel[(n_groups,)](
            partials,
            distance,
            per_layer,
            n_partials,
            batch.before,
            grid[0],
            max(batch.blocks),
            len(table),
            batch.first,
            len(batch.blocks),
            batch.table[: batch.columns],
            FIRST=batch.first == 0,
            ONE_COLUMN=metric.startswith("global_"),
            COLUMNS=batch.columns,
            BLOCK=SUM_BLOCK // batch.columns,
            **compile_options(4),
        )
