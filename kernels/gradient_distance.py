"""Distances of gradients and of mean features: two launches over all layers and classes, value and derivative.

The first launch reads every element once (twice for the cosine of rows, the second time from the cache), writes the
derivative, and leaves one partial sum per program; the second adds those up in index order. For the cosine of one
concatenated vector the second launch adds them up in every program, and writes the derivative.

Cosines are formed in float64: the rows of a 1-d parameter have one element, and the two parts of their derivative
cancel to the last digits.

Symbols: x real, y synthetic, M the length of a row, p = <x,y>, q = |x||y| + 1e-6.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import COMPILE, on_device_of
from .pair_table import Batch, batches, column_of, field, typed

BLOCK = 4096
"""Elements of a program, where the metric does not look at rows."""
ROW_BLOCK = 1024
"""Elements of a row a program holds at a time."""
SUM_BLOCK = 1024
TYPES = (tl.float32, tl.float16, tl.bfloat16)
"""By the number a table has for a dtype."""
SIZES = (4, 2, 2)

# Fields of a column; the first block is field 0.
REAL = tl.constexpr(1)
SYNTHETIC = tl.constexpr(2)
GRAD = tl.constexpr(3)
ROWS = tl.constexpr(4)
LENGTH = tl.constexpr(5)
REAL_STRIDE = tl.constexpr(6)
SYNTHETIC_STRIDE = tl.constexpr(7)
REAL_BATCH = tl.constexpr(8)
SYNTHETIC_BATCH = tl.constexpr(9)
INTERLEAVE = tl.constexpr(10)


@triton.jit
def _class_size(table, column, ALIGNED: tl.constexpr, COLUMNS: tl.constexpr):
    """Elements of one class."""
    size = (field(table, column, ROWS, COLUMNS) * field(table, column, LENGTH, COLUMNS)).to(tl.int32)
    if ALIGNED:
        size = tl.multiple_of(size, 4)
    return size


@triton.jit
def _mean_or_element(pointer, index, inside, size, batch, MEAN: tl.constexpr):
    """The elements in float32; with MEAN their mean over a batch of ``size`` elements each."""
    if MEAN:
        total = tl.zeros(index.shape, tl.float64)
        for image in range(0, batch):
            total += tl.load(pointer + image * size.to(tl.int64) + index, mask=inside, other=0.0).to(tl.float64)
        value = (total / batch).to(tl.float32)
    else:
        value = tl.load(pointer + index, mask=inside, other=0.0).to(tl.float32)
    return value


@triton.jit
def _load_pair(
    table,
    column,
    group,
    position,
    inside,
    X_TYPE: tl.constexpr,
    Y_TYPE: tl.constexpr,
    MEAN: tl.constexpr,
    ALIGNED: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """x and y at positions of one class."""
    length = field(table, column, LENGTH, COLUMNS).to(tl.int32)
    interleave = field(table, column, INTERLEAVE, COLUMNS).to(tl.int32)
    real = typed(field(table, column, REAL, COLUMNS), X_TYPE, ALIGNED)
    synthetic = typed(field(table, column, SYNTHETIC, COLUMNS), Y_TYPE, ALIGNED)
    real += group * field(table, column, REAL_STRIDE, COLUMNS)
    synthetic += group * field(table, column, SYNTHETIC_STRIDE, COLUMNS)
    size = _class_size(table, column, ALIGNED, COLUMNS)
    index = position
    if interleave != 1:
        i = position % length
        index = position - i + (i % interleave) * (length // interleave) + i // interleave
    x = _mean_or_element(real, index, inside, size, field(table, column, REAL_BATCH, COLUMNS).to(tl.int32), MEAN)
    n_synthetic = field(table, column, SYNTHETIC_BATCH, COLUMNS).to(tl.int32)
    y = _mean_or_element(synthetic, position, inside, size, n_synthetic, MEAN)
    return x, y


@triton.jit
def _store_grad(
    table,
    column,
    group,
    position,
    inside,
    slope,
    Y_TYPE: tl.constexpr,
    MEAN: tl.constexpr,
    ALIGNED: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """The derivative, in the mean of a batch shared out among its members."""
    size = _class_size(table, column, ALIGNED, COLUMNS)
    grad = typed(field(table, column, GRAD, COLUMNS), Y_TYPE, ALIGNED) + group * size
    if MEAN:
        slope = slope / field(table, column, SYNTHETIC_BATCH, COLUMNS).to(tl.float32)
    tl.store(grad + position, slope.to(Y_TYPE), mask=inside)


@triton.jit
def _cosine(xy, xx, yy):
    """1 - p/q, and the derivative in y as its parts along x and along y."""
    x_norm = tl.sqrt(xx)
    y_norm = tl.sqrt(yy)
    q = x_norm * y_norm + 1e-6
    is_zero = y_norm == 0
    along_y = tl.where(is_zero, 0.0, xy * x_norm / (tl.where(is_zero, 1.0, y_norm) * q * q))
    return 1 - xy / q, -1 / q, along_y


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
    """mse, l1, l1_mean: one chunk of one class, whole."""
    block = tl.program_id(0)
    group = tl.program_id(1).to(tl.int64)
    column = column_of(table, block, COLUMNS)
    length = field(table, column, LENGTH, COLUMNS).to(tl.int32)
    position = (block - field(table, column, 0, COLUMNS).to(tl.int32)) * BLOCK + tl.arange(0, BLOCK)
    inside = position < _class_size(table, column, ALIGNED, COLUMNS)
    x, y = _load_pair(table, column, group, position, inside, X_TYPE, Y_TYPE, MEAN, ALIGNED, COLUMNS)
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
        _store_grad(table, column, group, position, inside, slope, Y_TYPE, MEAN, ALIGNED, COLUMNS)


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
    """cos: one row of one class."""
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
        x, y = _load_pair(table, column, group, first + i, i < length, X_TYPE, Y_TYPE, MEAN, ALIGNED, COLUMNS)
        x = x.to(tl.float64)
        y = y.to(tl.float64)
        xy += x * y
        xx += x * x
        yy += y * y
    distance, along_x, along_y = _cosine(tl.sum(xy, axis=0), tl.sum(xx, axis=0), tl.sum(yy, axis=0))
    tl.store(Partials_ptr + group * n_partials + first_partial + block, distance)
    if WITH_GRAD:
        for begin in range(0, length, BLOCK):
            i = begin + tl.arange(0, BLOCK)
            x, y = _load_pair(table, column, group, first + i, i < length, X_TYPE, Y_TYPE, MEAN, ALIGNED, COLUMNS)
            slope = (along_x * x.to(tl.float64) + along_y * y.to(tl.float64)).to(tl.float32)
            _store_grad(table, column, group, first + i, i < length, slope, Y_TYPE, MEAN, ALIGNED, COLUMNS)


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
    """The partials of every layer of one class, in index order."""
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
    column = column_of(table, block, COLUMNS)
    position = (block - field(table, column, 0, COLUMNS).to(tl.int32)) * BLOCK + tl.arange(0, BLOCK)
    inside = position < _class_size(table, column, ALIGNED, COLUMNS)
    x, y = _load_pair(table, column, group, position, inside, X_TYPE, Y_TYPE, MEAN, ALIGNED, COLUMNS)
    partial = Partials_ptr + group * 3 * n_partials + first_partial + block
    tl.store(partial, tl.sum(x * y, axis=0).to(tl.float64))
    tl.store(partial + n_partials, tl.sum(x * x, axis=0).to(tl.float64))
    tl.store(partial + 2 * n_partials, tl.sum(y * y, axis=0).to(tl.float64))


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
    """global_cos: adds up the partials of the class, in every program alike, then the derivative over one chunk."""
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
    distance, along_x, along_y = _cosine(tl.sum(xy, axis=0), tl.sum(xx, axis=0), tl.sum(yy, axis=0))
    if block == 0:
        tl.store(Distance_ptr + group, distance.to(tl.float32))
        tl.store(PerLayer_ptr + group, distance.to(tl.float32))
    if WITH_GRAD:
        column = column_of(table, block, COLUMNS)
        position = (block - field(table, column, 0, COLUMNS).to(tl.int32)) * BLOCK + tl.arange(0, BLOCK)
        inside = position < _class_size(table, column, ALIGNED, COLUMNS)
        x, y = _load_pair(table, column, group, position, inside, X_TYPE, Y_TYPE, MEAN, ALIGNED, COLUMNS)
        slope = along_x.to(tl.float32) * x + along_y.to(tl.float32) * y
        _store_grad(table, column, group, position, inside, slope, Y_TYPE, MEAN, ALIGNED, COLUMNS)


@triton.jit
def _scale_kernel(
    Scale_ptr,  # IN (G, n_layers) float32
    n_layers,
    first_layer,
    table,
    TYPE: tl.constexpr,
    ALIGNED: tl.constexpr,
    COLUMNS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """scaled = scale * gradient over one chunk of one class; fields: gradient, scaled, size, stride."""
    block = tl.program_id(0)
    group = tl.program_id(1).to(tl.int64)
    column = column_of(table, block, COLUMNS)
    size = field(table, column, 3, COLUMNS)
    position = (block - field(table, column, 0, COLUMNS).to(tl.int32)) * BLOCK + tl.arange(0, BLOCK)
    gradient = typed(field(table, column, 1, COLUMNS), TYPE, ALIGNED) + group * field(table, column, 4, COLUMNS)
    scaled = typed(field(table, column, 2, COLUMNS), TYPE, ALIGNED) + group * size
    factor = tl.load(Scale_ptr + group * n_layers + first_layer + column)
    value = tl.load(gradient + position, mask=position < size, other=0.0).to(tl.float32) * factor
    tl.store(scaled + position, value.to(TYPE), mask=position < size)


def gradient_distance(
    table: Sequence[tuple[int, ...]], n_groups: int, metric: str, distance: Tensor, per_layer: Tensor
) -> None:
    """Distances of all layers and classes, and the derivative where the table has a place for it.

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
            _global_cosine(table, n_groups, distance, per_layer)
        else:
            _by_layer(table, n_groups, metric, distance, per_layer)


def _by_layer(
    table: Sequence[tuple[int, ...]], n_groups: int, metric: str, distance: Tensor, per_layer: Tensor
) -> None:
    blocks = [rows if metric == "cos" else triton.cdiv(rows * length, BLOCK) for _, _, _, rows, length, *_ in table]
    n_partials = sum(blocks)
    partials = torch.empty((n_groups, n_partials), dtype=torch.float64, device=distance.device)
    for batch in _batches(table, blocks):
        options = _options(table, batch)
        arguments = (partials, n_partials, batch.before, batch.table)
        grid = (sum(batch.blocks), n_groups)
        if grid[0] and metric == "cos":
            _row_cosine_kernel[grid](*arguments, **options, BLOCK=ROW_BLOCK, num_warps=4, **COMPILE)
        elif grid[0]:
            square, row_mean = metric.endswith("mse"), metric == "l1_mean"
            _difference_kernel[grid](
                *arguments, **options, SQUARE=square, ROW_MEAN=row_mean, BLOCK=BLOCK, num_warps=8, **COMPILE
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
            num_warps=4,
            **COMPILE,
        )


def _global_cosine(table: Sequence[tuple[int, ...]], n_groups: int, distance: Tensor, per_layer: Tensor) -> None:
    blocks = [triton.cdiv(rows * length, BLOCK) for _, _, _, rows, length, *_ in table]
    n_partials = sum(blocks)
    partials = torch.empty((n_groups, 3, n_partials), dtype=torch.float64, device=distance.device)
    todo = [batch for batch in _batches(table, blocks) if sum(batch.blocks)]
    for batch in todo:
        options = _options(table, batch)
        del options["WITH_GRAD"]
        _product_kernel[(sum(batch.blocks), n_groups)](
            partials, n_partials, batch.before, batch.table, **options, BLOCK=BLOCK, num_warps=8, **COMPILE
        )
    with_grads = bool(todo) and any(of_layer[2] for of_layer in table)
    # Without derivatives one program per class is enough, whichever layers it is told of.
    for batch in todo if with_grads else list(_batches(table, blocks))[:1]:
        options = {**_options(table, batch), "WITH_GRAD": with_grads}
        _global_cosine_kernel[(sum(batch.blocks) if with_grads else 1, n_groups)](
            partials,
            distance,
            per_layer,
            n_partials,
            batch.table,
            **options,
            BLOCK=BLOCK,
            SUM_BLOCK=SUM_BLOCK,
            num_warps=8,
            **COMPILE,
        )


def scale_gradients(table: Sequence[tuple[int, ...]], scale: Tensor) -> None:
    """Every tensor times its column of ``scale`` (G, L) float32, class by class.

    Args:
        table: the fields of ``ScaledGradient`` in ``csrc/gradient_pair.h`` for every tensor.
        scale: contiguous.
    """
    n_groups, n_layers = scale.shape
    blocks = [triton.cdiv(size, BLOCK) for _, _, size, _, _ in table]
    with on_device_of(scale):
        for batch in batches([of_tensor[:4] for of_tensor in table], blocks, [of_tensor[4] for of_tensor in table]):
            own = table[batch.first : batch.first + len(batch.blocks)]
            if not sum(batch.blocks) or not n_groups:
                continue
            width = SIZES[own[0][4]]
            aligned = all(
                v % 16 == 0
                for source, target, size, stride, _ in own
                for v in (source, target, (size * width) if n_groups > 1 else 0, stride * width)
            )
            _scale_kernel[(sum(batch.blocks), n_groups)](
                scale,
                n_layers,
                batch.first,
                batch.table,
                TYPE=TYPES[own[0][4]],
                ALIGNED=aligned,
                COLUMNS=batch.columns,
                BLOCK=BLOCK,
                num_warps=8,
                **COMPILE,
            )


def _batches(table: Sequence[tuple[int, ...]], blocks: Sequence[int]) -> list[Batch]:
    means = [of_layer[7:9] != (1, 1) for of_layer in table]
    alike = [(*of_layer[10:], mean) for of_layer, mean in zip(table, means, strict=True)]
    return list(batches([of_layer[:10] for of_layer in table], blocks, alike))


def _options(table: Sequence[tuple[int, ...]], batch: Batch) -> dict[str, object]:
    """What is compiled into the kernel of a launch."""
    own = table[batch.first : batch.first + len(batch.blocks)]
    x_type, y_type = own[0][10:]
    return {
        "X_TYPE": TYPES[x_type],
        "Y_TYPE": TYPES[y_type],
        "MEAN": own[0][7:9] != (1, 1),
        "WITH_GRAD": own[0][2] != 0,
        "ALIGNED": all(_is_aligned(of_layer) for of_layer in own),
        "COLUMNS": batch.columns,
    }


def _is_aligned(of_layer: tuple[int, ...]) -> bool:
    """Whether every class and every image of both tensors begins at a multiple of 16 bytes."""
    real, synthetic, grad, rows, length, real_stride, synthetic_stride, *_, x_type, y_type = of_layer
    x_size, y_size = SIZES[x_type], SIZES[y_type]
    size = rows * length
    steps = (real_stride * x_size, synthetic_stride * y_size, size * x_size, size * y_size)
    return all(address % 16 == 0 for address in (real, synthetic, grad, *steps))
