"""Sums of listed rows in float64, for means.

Every row is converted and added once, so the time of double precision is hidden behind reading the rows. It makes the
mean of equal rows exactly that row, and the order of a sum affects only the last bits of a double.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def sum_of_rows(X_ptr, Rows_ptr, n, d, D, BLOCK_M: tl.constexpr, BLOCK_D: tl.constexpr):
    """Sum of n listed rows over features d."""
    total = tl.zeros([BLOCK_M, BLOCK_D], tl.float64)
    for m0 in range(0, n, BLOCK_M):
        m = m0 + tl.arange(0, BLOCK_M)
        row = tl.load(Rows_ptr + m, mask=m < n, other=0).to(tl.int64)
        x = tl.load(X_ptr + row[:, None] * D + d[None, :], mask=(m < n)[:, None] & (d < D)[None, :], other=0.0)
        total += x.to(tl.float32).to(tl.float64)
    return tl.sum(total, axis=0)


@triton.jit
def sum_of_staying(X_ptr, Rows_ptr, n, Moved_ptr, d, D, BLOCK_M: tl.constexpr, BLOCK_D: tl.constexpr):
    """The same of those that no empty cluster takes, and their number.

    Not what is left of the sum of all: the farthest rows are taken, beside which the others may vanish in a double.
    """
    total = tl.zeros([BLOCK_M, BLOCK_D], tl.float64)
    n_staying = tl.zeros([BLOCK_M], tl.int32)
    for m0 in range(0, n, BLOCK_M):
        m = m0 + tl.arange(0, BLOCK_M)
        row = tl.load(Rows_ptr + m, mask=m < n, other=0).to(tl.int64)
        stays = (m < n) & (tl.load(Moved_ptr + row, mask=m < n, other=0) == 0)
        x = tl.load(X_ptr + row[:, None] * D + d[None, :], mask=stays[:, None] & (d < D)[None, :], other=0.0)
        total += x.to(tl.float32).to(tl.float64)
        n_staying += stays.to(tl.int32)
    return tl.sum(total, axis=0), tl.sum(n_staying, axis=0)


@triton.jit
def all_finite(values, mask):
    """Whether no value of the mask is infinite or NaN, as int8."""
    bad = mask & ((tl.abs(values) < float("inf")) == 0)
    return (tl.sum(bad.to(tl.int32), axis=0) == 0).to(tl.int8)
