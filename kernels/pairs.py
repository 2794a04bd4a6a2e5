"""Pairs of tensors in a table: reading both sides, writing the derivative, and compile-time options of the kernels.

Symbols: x real, y synthetic, M the length of a row, p = <x,y>, q = |x||y| + 1e-6.
"""

from __future__ import annotations

from collections.abc import Sequence

import triton
import triton.language as tl

from .pair_table import Batch, batches, field, typed

TYPES = (tl.float32, tl.float16, tl.bfloat16)
"""Triton types, indexed by the number of a dtype in tables."""
SIZES = (4, 2, 2)
"""Bytes per element, indexed the same way."""

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
def class_size(table, column, ALIGNED: tl.constexpr, COLUMNS: tl.constexpr):
    """Elements of one class."""
    size = (field(table, column, ROWS, COLUMNS) * field(table, column, LENGTH, COLUMNS)).to(tl.int32)
    if ALIGNED:
        size = tl.multiple_of(size, 4)
    return size


@triton.jit
def _mean_or_element(pointer, index, inside, size, batch, MEAN: tl.constexpr):
    """The elements in float32; with MEAN, their means over ``batch`` images of ``size`` elements each."""
    if MEAN:
        total = tl.zeros(index.shape, tl.float64)
        for image in range(0, batch):
            total += tl.load(pointer + image * size.to(tl.int64) + index, mask=inside, other=0.0).to(tl.float64)
        value = (total / batch).to(tl.float32)
    else:
        value = tl.load(pointer + index, mask=inside, other=0.0).to(tl.float32)
    return value


@triton.jit
def load_pair(
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
    size = class_size(table, column, ALIGNED, COLUMNS)
    index = position
    if interleave != 1:
        i = position % length
        index = position - i + (i % interleave) * (length // interleave) + i // interleave
    x = _mean_or_element(real, index, inside, size, field(table, column, REAL_BATCH, COLUMNS).to(tl.int32), MEAN)
    n_synthetic = field(table, column, SYNTHETIC_BATCH, COLUMNS).to(tl.int32)
    y = _mean_or_element(synthetic, position, inside, size, n_synthetic, MEAN)
    return x, y


@triton.jit
def store_grad(
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
    """Store the derivative; with MEAN, that in each image: the derivative in the mean over the number of images."""
    size = class_size(table, column, ALIGNED, COLUMNS)
    grad = typed(field(table, column, GRAD, COLUMNS), Y_TYPE, ALIGNED) + group * size
    if MEAN:
        slope = slope / field(table, column, SYNTHETIC_BATCH, COLUMNS).to(tl.float32)
    tl.store(grad + position, slope.to(Y_TYPE), mask=inside)


@triton.jit
def cosine(xy, xx, yy):
    """1 - p/q, and the derivative in y as its parts along x and along y."""
    x_norm = tl.sqrt(xx)
    y_norm = tl.sqrt(yy)
    q = x_norm * y_norm + 1e-6
    is_zero = y_norm == 0
    along_y = tl.where(is_zero, 0.0, xy * x_norm / (tl.where(is_zero, 1.0, y_norm) * q * q))
    return 1 - xy / q, -1 / q, along_y


def batches_of(table: Sequence[tuple[int, ...]], blocks: Sequence[int]) -> list[Batch]:
    """Divide pairs among launches: those in one launch have the same dtypes, and all or none of them are averaged."""
    means = [of_layer[7:9] != (1, 1) for of_layer in table]
    alike = [(*of_layer[10:], mean) for of_layer, mean in zip(table, means, strict=True)]
    return list(batches([of_layer[:10] for of_layer in table], blocks, alike))


def options_of(table: Sequence[tuple[int, ...]], batch: Batch) -> dict[str, object]:
    """Compile-time options of the kernel of a launch."""
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
    """Return True if every class and every image of both tensors begins at a multiple of 16 bytes."""
    real, synthetic, grad, rows, length, real_stride, synthetic_stride, *_, x_type, y_type = of_layer
    x_size, y_size = SIZES[x_type], SIZES[y_type]
    size = rows * length
    steps = (real_stride * x_size, synthetic_stride * y_size, size * x_size, size * y_size)
    return all(address % 16 == 0 for address in (real, synthetic, grad, *steps))
