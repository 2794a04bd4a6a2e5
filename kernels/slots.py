"""Slots of clusters and the rows that fill them: representatives, and new members of empty clusters.

Slot (k, j) belongs to the j-th member of cluster k nearest its centroid. Slots beyond the number of members are free;
the best of the remaining rows fill them in order. :mod:`.select` finds the best rows, in time linear in the rows.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import tiles
from .common import compile_options, dense, maybe_dense, on_device_of
from .members import Members
from .select import ranks_of_taken, select_rows


class Slots(NamedTuple):
    """K*n slots per group."""

    rows: Tensor
    """(G, K, n) int64, global row indices; -1 where free."""
    free: Tensor
    """(G, K*n) int32, indices of the free slots, in order; only the first ``n_free`` entries are defined."""
    n_free: Tensor
    """(G,) int32, number of free slots."""


@triton.jit
def _free_slots_kernel(
    Counts_ptr,
    Active_ptr,
    Slots_ptr,
    Free_ptr,
    NFree_ptr,
    K,
    n,
    HAS_ACTIVE: tl.constexpr,
    BLOCK_S: tl.constexpr,
):
    """Slot (k, j) is free where j >= count_k; inactive groups offer none."""
    group = tl.program_id(0).to(tl.int64)
    n_slots = K * n
    n_free = tl.zeros([], tl.int32)
    for s0 in range(0, n_slots, BLOCK_S):
        s = s0 + tl.arange(0, BLOCK_S)
        count = tl.load(Counts_ptr + group * K + s // n, mask=s < n_slots, other=0)
        free = (s < n_slots) & (s % n >= count)
        rank = n_free + tl.cumsum(free.to(tl.int32), axis=0) - 1
        tl.store(Slots_ptr + group * n_slots + s, tl.full([BLOCK_S], -1, tl.int64), mask=free)
        tl.store(Free_ptr + group * n_slots + rank, s, mask=free)
        n_free += tl.sum(free.to(tl.int32), axis=0)
    if HAS_ACTIVE:
        n_free = tl.where(tl.load(Active_ptr + group) != 0, n_free, 0)
    tl.store(NFree_ptr + group, n_free)


@triton.jit
def _nearest_slots_kernel(
    Offsets_ptr,
    Distance_ptr,
    Rows_ptr,
    Starts_ptr,
    Counts_ptr,
    NFree_ptr,
    Taken_ptr,  # scratch (G, K*n) int64
    Slots_ptr,  # OUT (G, K*n) int64, the slots that are not free
    Spare_ptr,  # OUT (N,) int8, rows that may take a free slot
    K,
    n,
    RELOCATE: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_J: tl.constexpr,
):
    """The n members of one cluster that are first by (distance, row). Rows without a cluster are cluster K."""
    group = tl.program_id(0).to(tl.int64) // (K + 1)
    cluster = (tl.program_id(0) % (K + 1)).to(tl.int32)
    if RELOCATE and tl.load(NFree_ptr + group) == 0:
        return
    begin = tl.load(Starts_ptr + group * (K + 1) + cluster)
    end = tl.load(Offsets_ptr + group + 1).to(tl.int32)
    wanted = tl.zeros([], tl.int32)
    if cluster < K:
        end = begin + tl.load(Counts_ptr + group * K + cluster)
        wanted = tl.minimum(end - begin, n).to(tl.int32)
    own = (group * K + tl.minimum(cluster, K - 1)) * n
    n_taken = select_rows(
        begin, end, wanted, Rows_ptr, Distance_ptr, Spare_ptr, Spare_ptr, Taken_ptr + own, True, RELOCATE, BLOCK
    )
    for c0 in range(0, n_taken, BLOCK_N):
        row, rank, inside = ranks_of_taken(Taken_ptr + own, c0, n_taken, BLOCK_N, BLOCK_J)
        tl.store(Slots_ptr + own + rank, row, mask=inside)


@triton.jit
def _fill_slots_kernel(
    Offsets_ptr,
    Distance_ptr,
    Spare_ptr,
    Free_ptr,
    NFree_ptr,
    Taken_ptr,  # scratch (G, S) int64
    Slots_ptr,  # OUT (G, S) int64, the free slots
    Moved_ptr,  # OUT (N,) int8, rows that took one
    n_slots,
    RELOCATE: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_J: tl.constexpr,
):
    """The spare rows of one group that are first, nearest or, to relocate, farthest first, take its free slots."""
    group = tl.program_id(0).to(tl.int64)
    n_free = tl.load(NFree_ptr + group)
    if n_free == 0:
        return
    begin = tl.load(Offsets_ptr + group).to(tl.int32)
    end = tl.load(Offsets_ptr + group + 1).to(tl.int32)
    own = group * n_slots
    n_taken = select_rows(
        begin, end, n_free, Spare_ptr, Distance_ptr, Spare_ptr, Moved_ptr, Taken_ptr + own, False, RELOCATE, BLOCK
    )
    for c0 in range(0, n_taken, BLOCK_N):
        row, rank, inside = ranks_of_taken(Taken_ptr + own, c0, n_taken, BLOCK_N, BLOCK_J)
        slot = tl.load(Free_ptr + own + rank, mask=inside, other=0)
        tl.store(Slots_ptr + own + slot, row, mask=inside)


def free_slots(members: Members, n: int, active: Tensor | None = None) -> Slots:
    """Mark the slots beyond the members of their cluster with -1; :func:`fill_slots` writes the others."""
    n_groups, n_clusters = members.counts.shape
    device = members.counts.device
    rows = torch.empty((n_groups, n_clusters, n), dtype=torch.int64, device=device)
    free = torch.empty((n_groups, n_clusters * n), dtype=torch.int32, device=device)
    n_free = torch.empty(n_groups, dtype=torch.int32, device=device)
    with on_device_of(rows):
        _free_slots_kernel[(n_groups,)](
            members.counts,
            maybe_dense(active),
            rows,
            free,
            n_free,
            n_clusters,
            n,
            HAS_ACTIVE=active is not None,
            BLOCK_S=tiles.block_of(n_clusters * n, at_most=tiles.SLOTS),
            **compile_options(4),
        )
    return Slots(rows, free, n_free)


def fill_slots(slots: Slots, offsets: Tensor, distance: Tensor, members: Members, relocate: bool = False) -> Tensor:
    """Assign a row to every slot.

    Args:
        slots: from :func:`free_slots`; ``slots.rows`` is written.
        offsets: (G+1,) int64.
        distance: (N,) float32.
        members: the members of every cluster.
        relocate: False: free slots take any remaining row, nearest first. True, with one slot per cluster: they take
            rows of other clusters at a distance above 0, farthest first, and groups without a free slot are skipped.

    Returns:
        (N,) int8, rows that took a free slot; defined with ``relocate`` only, in the groups that have one.
    """
    n_rows = len(distance)
    n_groups, n_clusters, n = slots.rows.shape
    n_slots = n_clusters * n
    spare = torch.empty(n_rows, dtype=torch.int8, device=distance.device)
    moved = torch.empty(n_rows if relocate else 0, dtype=torch.int8, device=distance.device)
    taken = torch.empty((n_groups, n_slots), dtype=torch.int64, device=distance.device)
    offsets, distance = dense(offsets), dense(distance)
    with on_device_of(distance):
        _nearest_slots_kernel[(n_groups * (n_clusters + 1),)](
            offsets,
            distance,
            members.rows,
            members.starts,
            members.counts,
            slots.n_free,
            taken,
            slots.rows,
            spare,
            n_clusters,
            n,
            RELOCATE=relocate,
            BLOCK=tiles.SELECT_MEMBERS,
            BLOCK_N=tiles.RANK_ROWS,
            BLOCK_J=tiles.RANK_OTHERS,
            **compile_options(4),
        )
        _fill_slots_kernel[(n_groups,)](
            offsets,
            distance,
            spare,
            slots.free,
            slots.n_free,
            taken,
            slots.rows,
            moved,
            n_slots,
            RELOCATE=relocate,
            BLOCK=tiles.SELECT_ROWS,
            BLOCK_N=tiles.RANK_ROWS,
            BLOCK_J=tiles.RANK_OTHERS,
            **compile_options(16),
        )
    return moved
