"""Selection of the first rows by (distance, row) with a fixed number of passes over the candidates.

Distances become integers that order as they do. Four histograms of eight bits each give the key of the last row to be
taken; a pass in row order takes the rows before it, and of the rows with that key as many as are still wanted. Integers
alone are added, so the result is exact and depends on nothing but the rows.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _candidates(at, end, Rows_ptr, Distance_ptr, Spare_ptr, LISTED: tl.constexpr, FARTHEST: tl.constexpr):
    """Rows, distances, keys and which of them count: the rows that a list names, or the spare ones of a range.

    The lower key is taken first. A distance that is NaN comes after all others, nearest first.
    """
    inside = at < end
    if LISTED:
        row = tl.load(Rows_ptr + at, mask=inside, other=0)
        counts = inside
    else:
        row = at
        counts = inside & (tl.load(Spare_ptr + at, mask=inside, other=0) != 0)
    distance = tl.load(Distance_ptr + row, mask=inside, other=0.0)
    distance = tl.where(distance == 0, 0.0, distance)  # of the two zeros one
    bits = distance.to(tl.uint32, bitcast=True)
    key = tl.where(bits >> 31 != 0, bits ^ 0xFFFFFFFF, bits | 0x80000000)
    if FARTHEST:
        key = key ^ 0xFFFFFFFF
    key = tl.where(distance == distance, key, 0xFFFFFFFF).to(tl.uint32)
    return row, distance, key, counts


@triton.jit
def _last_taken(
    begin,
    end,
    wanted,
    Rows_ptr,
    Distance_ptr,
    Spare_ptr,
    LISTED: tl.constexpr,
    FARTHEST: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Key of the last candidate to be taken, and how many of the candidates with this key are."""
    last = tl.zeros([], tl.uint32)
    left = wanted
    if wanted == 1:
        last += 0xFFFFFFFF
        for i in range(begin, end, BLOCK):
            at = i + tl.arange(0, BLOCK)
            _row, _distance, key, counts = _candidates(at, end, Rows_ptr, Distance_ptr, Spare_ptr, LISTED, FARTHEST)
            last = tl.minimum(last, tl.min(tl.where(counts, key, 0xFFFFFFFF).to(tl.uint32), axis=0))
    elif wanted > 1:
        digits = tl.arange(0, 256)
        for shift in tl.static_range(24, -1, -8):
            histogram = tl.zeros([256], tl.int32)
            for i in range(begin, end, BLOCK):
                at = i + tl.arange(0, BLOCK)
                _row, _distance, key, counts = _candidates(at, end, Rows_ptr, Distance_ptr, Spare_ptr, LISTED, FARTHEST)
                if shift < 24:
                    counts = counts & (key >> (shift + 8) == last)
                histogram += tl.histogram(((key >> shift) & 255).to(tl.int32), 256, mask=counts)
            left = tl.minimum(left, tl.sum(histogram, axis=0))
            digit = tl.sum((tl.cumsum(histogram, axis=0) < left).to(tl.int32), axis=0)
            left -= tl.sum(tl.where(digits < digit, histogram, 0), axis=0)
            last = (last << 8) | digit.to(tl.uint32)
    return last, left


@triton.jit
def select_rows(
    begin,
    end,
    wanted,
    Rows_ptr,  # IN  (N,) int32, where LISTED
    Distance_ptr,  # IN  (N,) float32
    Spare_ptr,  # IN  (N,) int8, where not LISTED: the rows to choose from
    Flags_ptr,  # OUT (N,) int8. LISTED: rows that are left to choose from; else, with RELOCATE: rows that are taken
    Taken_ptr,  # OUT (wanted,) int64, key and row of those taken, in row order
    LISTED: tl.constexpr,
    RELOCATE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Take the first ``wanted`` candidates by (key, row), or all where they are fewer; returns how many.

    Listed rows are taken nearest first, and with RELOCATE those left are at a distance above 0 and in a cluster, which
    the rows that are listed with ``wanted`` 0 are not. Other rows are taken nearest or, with RELOCATE, farthest first.
    """
    FARTHEST: tl.constexpr = RELOCATE and not LISTED
    last, n_ties = _last_taken(begin, end, wanted, Rows_ptr, Distance_ptr, Spare_ptr, LISTED, FARTHEST, BLOCK)
    n_taken = tl.zeros([], tl.int32)
    n_tied = tl.zeros([], tl.int32)
    for i in range(begin, end, BLOCK):
        at = i + tl.arange(0, BLOCK)
        row, distance, key, counts = _candidates(at, end, Rows_ptr, Distance_ptr, Spare_ptr, LISTED, FARTHEST)
        tied = counts & (key == last)
        tie = n_tied + tl.cumsum(tied.to(tl.int32), axis=0)
        taken = (counts & (key < last)) | (tied & (tie <= n_ties))
        place = n_taken + tl.cumsum(taken.to(tl.int32), axis=0) - 1
        tl.store(Taken_ptr + place, (key.to(tl.uint64) << 32) | row.to(tl.uint64), mask=taken)
        n_taken += tl.sum(taken.to(tl.int32), axis=0)
        n_tied += tl.sum(tied.to(tl.int32), axis=0)
        if LISTED:
            spare = taken == 0
            if RELOCATE:
                spare = spare & (distance > 0) & (wanted > 0)
            tl.store(Flags_ptr + row, spare.to(tl.int8), mask=at < end)
        elif RELOCATE:
            tl.store(Flags_ptr + row, taken.to(tl.int8), mask=at < end)
    tl.debug_barrier()  # other threads read what was taken
    return n_taken


@triton.jit
def ranks_of_taken(Taken_ptr, first, n_taken, BLOCK_N: tl.constexpr, BLOCK_J: tl.constexpr):
    """Rows, ranks by (key, row), and which of them exist, of BLOCK_N of the rows taken."""
    i = first + tl.arange(0, BLOCK_N)
    own = tl.load(Taken_ptr + i, mask=i < n_taken, other=0).to(tl.uint64, bitcast=True)
    rank = tl.zeros([BLOCK_N], tl.int32)
    for j0 in range(0, n_taken, BLOCK_J):
        j = j0 + tl.arange(0, BLOCK_J)
        other = tl.load(Taken_ptr + j, mask=j < n_taken, other=-1).to(tl.uint64, bitcast=True)
        rank += tl.sum((other[None, :] < own[:, None]).to(tl.int32), axis=1)
    return (own & 0xFFFFFFFF).to(tl.int64), rank, i < n_taken
