"""Means of clusters of which some rows have changed: those rows alone are read."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import tiles
from .common import compile_options, on_device_of
from .members import Members
from .row_sums import all_finite, sum_of_rows, sum_of_staying

LARGER = 2.0**26
"""How much larger than what is left a sum of rows that have gone may be: 27 of 53 bits are left, a float takes 24."""


@triton.jit
def _list_changed(Rows_ptr, n, Labels_ptr, k, List_ptr, BLOCK: tl.constexpr):
    """Write the rows whose label is not k to a list, in their order; returns how many."""
    n_listed = tl.zeros([], tl.int32)
    for i in range(0, n, BLOCK):
        at = i + tl.arange(0, BLOCK)
        row = tl.load(Rows_ptr + at, mask=at < n, other=0)
        listed = (at < n) & (tl.load(Labels_ptr + row, mask=at < n, other=k) != k)
        tl.store(List_ptr + n_listed + tl.cumsum(listed.to(tl.int32), axis=0) - 1, row, mask=listed)
        n_listed += tl.sum(listed.to(tl.int32), axis=0)
    return n_listed


@triton.jit
def _shifted_means_kernel(
    X_ptr,  # IN  (N, D)
    Labels_ptr,  # IN  (N,) int32
    Before_ptr,  # IN  (N,) int32, those of the update before
    Rows_ptr,  # IN  member lists, as in Members
    Starts_ptr,
    Counts_ptr,
    OldRows_ptr,  # IN  those of the update before
    OldStarts_ptr,
    OldCounts_ptr,
    Lists_ptr,  # scratch (2, N) int32
    Sums_ptr,  # IN and OUT (G, K, D) float64, of the members
    Previous_ptr,  # IN  (G, K, D) float32
    Going_ptr,  # IN  (G,) bool
    NFree_ptr,  # these three as for the means of all members
    Slots_ptr,
    Moved_ptr,
    Mean_ptr,  # OUT (G, K, D) float32
    Live_ptr,  # OUT (G, K, blocks of features) int8
    N,
    K,
    D,
    RELOCATE: tl.constexpr,
    LARGER: tl.constexpr,
    BLOCK_L: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """sum_k += rows that have come - rows that have gone; c_k = sum_k / number of members."""
    cluster = tl.program_id(0).to(tl.int64)
    group = cluster // K
    k = (cluster % K).to(tl.int32)
    n_blocks = (D + BLOCK_D - 1) // BLOCK_D
    going = tl.load(Going_ptr + group) != 0
    count = tl.load(Counts_ptr + cluster)
    n_come = tl.zeros([], tl.int32)
    n_gone = tl.zeros([], tl.int32)
    rescue = False
    taken = tl.full([], -1, tl.int64)
    start = tl.load(Starts_ptr + cluster + group)
    old_start = tl.load(OldStarts_ptr + cluster + group)
    come_ptr, gone_ptr = Lists_ptr + start, Lists_ptr + N + old_start
    if going:
        n_come = _list_changed(Rows_ptr + start, count, Before_ptr, k, come_ptr, BLOCK_L)
        n_gone = _list_changed(
            OldRows_ptr + old_start, tl.load(OldCounts_ptr + cluster), Labels_ptr, k, gone_ptr, BLOCK_L
        )
        if RELOCATE:
            rescue = tl.load(NFree_ptr + group) > 0
            if rescue and count == 0:
                taken = tl.load(Slots_ptr + cluster)
    tl.debug_barrier()  # other threads read what was listed
    for block in range(0, n_blocks):
        d = block * BLOCK_D + tl.arange(0, BLOCK_D)
        in_d = d < D
        mean = tl.load(Previous_ptr + cluster * D + d, mask=in_d, other=0.0)
        if going:
            sums = tl.load(Sums_ptr + cluster * D + d, mask=in_d, other=0.0)
            if n_come + n_gone > 0:
                sums += sum_of_rows(X_ptr, come_ptr, n_come, d, D, BLOCK_M, BLOCK_D)
                gone = sum_of_rows(X_ptr, gone_ptr, n_gone, d, D, BLOCK_M, BLOCK_D)
                sums -= gone
                # Where what has gone was far larger than what is left, or not finite, too few digits are left.
                enough = (tl.abs(gone) <= LARGER * tl.abs(sums)) | (n_gone == 0)
                if tl.min((enough | (d >= D)).to(tl.int32), axis=0) == 0:
                    sums = sum_of_rows(X_ptr, Rows_ptr + start, count, d, D, BLOCK_M, BLOCK_D)
                tl.store(Sums_ptr + cluster * D + d, sums, mask=in_d)
            n_summed = count
            if RELOCATE and rescue:
                sums, n_summed = sum_of_staying(X_ptr, Rows_ptr + start, count, Moved_ptr, d, D, BLOCK_M, BLOCK_D)
            if n_summed > 0:
                mean = (sums / n_summed.to(tl.float64)).to(tl.float32)
            if taken >= 0:
                mean = tl.load(X_ptr + taken * D + d, mask=in_d, other=0.0).to(tl.float32)
        tl.store(Mean_ptr + cluster * D + d, mean, mask=in_d)
        tl.store(Live_ptr + cluster * n_blocks + block, all_finite(mean, in_d))


def shifted_means(
    x: Tensor,
    labels: Tensor,
    before: Tensor,
    members: Members,
    old: Members,
    sums: Tensor,
    previous: Tensor,
    going: Tensor,
    moved: Tensor | None,
    live: Tensor,
) -> Tensor:
    """Replace the centroids of some groups by the means of their members, from the sums before and what has changed.

    Args:
        x: (N, D) float32, float16 or bfloat16.
        labels: (N,) int32.
        before: (N,) int32, the labels of the update before.
        members: by ``labels``.
        old: by ``before``.
        sums: (G, K, D) float64 of the old members; of the new ones afterwards.
        previous: (G, K, D) float32; what empty clusters and the other groups keep.
        going: (G,) bool.
        moved: (N,) int8, rows taken by an empty cluster, from :func:`.slots.fill_slots`; None where none is.
        live: from :func:`.update.empty_live`, written.

    Returns:
        (G, K, D) float32.
    """
    n_groups, n_clusters, n_features = previous.shape
    means = torch.empty(previous.shape, dtype=torch.float32, device=previous.device)
    lists = torch.empty((2, len(x)), dtype=torch.int32, device=x.device)
    tile = tiles.shift_tile(n_features)
    slots = members.slots
    with on_device_of(x):
        _shifted_means_kernel[(n_groups * n_clusters,)](
            x,
            labels,
            before,
            members.rows,
            members.starts,
            members.counts,
            old.rows,
            old.starts,
            old.counts,
            lists,
            sums,
            previous,
            going,
            None if slots is None else slots.n_free,
            None if slots is None else slots.rows,
            moved,
            means,
            live,
            len(x),
            n_clusters,
            n_features,
            RELOCATE=moved is not None,
            LARGER=LARGER,
            BLOCK_L=tiles.LISTED,
            BLOCK_M=tile.rows,
            BLOCK_D=tile.features,
            **compile_options(tile.warps),
        )
    return means
