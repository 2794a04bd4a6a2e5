"""Slots of clusters and the rows that fill them: representatives, and new members of empty clusters.

Slot (k, j) belongs to the j-th member of cluster k nearest its centroid. Slots beyond the number of members are free;
the best of the remaining rows fill them in order. A rank is the number of better rows, so nothing is sorted.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import tiles
from .launch import COMPILE, dense, maybe_dense, on_device_of
from .members import Members, cluster_of
from .prepare import tile_map


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
def load_distance(ptrs, mask):
    """Distances with NaN replaced by infinity, so that any two of them compare."""
    distance = tl.load(ptrs, mask=mask, other=float("inf"))
    return tl.where(distance == distance, distance, float("inf"))


@triton.jit
def _nearest_slots_kernel(
    Offsets_ptr,
    TileGroup_ptr,
    TileRow_ptr,
    Labels_ptr,
    Distance_ptr,
    Rows_ptr,
    Starts_ptr,
    Counts_ptr,
    NFree_ptr,
    Slots_ptr,  # OUT (G, K*n) int64, the slots that are not free
    Spare_ptr,  # OUT (N,) int8, rows that may take a free slot
    K,
    n,
    RELOCATE: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_J: tl.constexpr,
):
    """rank_i = number of members of i's cluster before it by (distance, row); a rank below n is the slot of the row."""
    group = tl.load(TileGroup_ptr + tl.program_id(0)).to(tl.int64)
    if group < 0:
        return
    if RELOCATE and tl.load(NFree_ptr + group) == 0:
        return
    end = tl.load(Offsets_ptr + group + 1).to(tl.int32)
    position = tl.load(TileRow_ptr + tl.program_id(0)).to(tl.int32) + tl.arange(0, BLOCK_N)
    inside = position < end
    position = tl.minimum(position, end - 1)
    row = tl.load(Rows_ptr + position)
    label = cluster_of(tl.load(Labels_ptr + row), K)
    member = label < K
    distance = load_distance(Distance_ptr + row, inside)
    cluster_start = tl.load(Starts_ptr + group * (K + 1) + label)
    cluster_end = cluster_start + tl.load(Counts_ptr + group * K + label, mask=member, other=0)
    rank = tl.zeros([BLOCK_N], tl.int32)
    last = tl.max(cluster_end, axis=0)
    for j0 in range(tl.min(cluster_start, axis=0), last, BLOCK_J):
        j = j0 + tl.arange(0, BLOCK_J)
        other_row = tl.load(Rows_ptr + j, mask=j < last, other=0)
        other = load_distance(Distance_ptr + other_row, j < last)[None, :]
        same = (j[None, :] >= cluster_start[:, None]) & (j[None, :] < cluster_end[:, None])
        # Members are in row order, so a lower position is a lower row.
        tie = (other == distance[:, None]) & (j[None, :] < position[:, None])
        rank += tl.sum((same & ((other < distance[:, None]) | tie)).to(tl.int32), axis=1)
    picked = member & (rank < n)
    tl.store(Slots_ptr + group * K * n + label * n + rank, row.to(tl.int64), mask=inside & picked)
    spare = picked == 0
    if RELOCATE:
        spare = spare & member & (distance > 0)
    tl.store(Spare_ptr + row, spare.to(tl.int8), mask=inside)


@triton.jit
def _fill_slots_kernel(
    Offsets_ptr,
    TileGroup_ptr,
    TileRow_ptr,
    Distance_ptr,
    Spare_ptr,
    Free_ptr,
    NFree_ptr,
    Slots_ptr,  # OUT (G, S) int64, the free slots
    Moved_ptr,  # OUT (N,) int8, rows that took one
    n_slots,
    RELOCATE: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_J: tl.constexpr,
):
    """rank_i = number of spare rows before i, nearest or, to relocate, farthest first: its place in the free slots."""
    group = tl.load(TileGroup_ptr + tl.program_id(0)).to(tl.int64)
    if group < 0:
        return
    n_free = tl.load(NFree_ptr + group)
    if n_free == 0:
        return
    begin = tl.load(Offsets_ptr + group).to(tl.int32)
    end = tl.load(Offsets_ptr + group + 1).to(tl.int32)
    row = tl.load(TileRow_ptr + tl.program_id(0)).to(tl.int32) + tl.arange(0, BLOCK_N)
    inside = row < end
    spare = tl.load(Spare_ptr + row, mask=inside, other=0) != 0
    distance = load_distance(Distance_ptr + row, inside)[:, None]
    rank = tl.zeros([BLOCK_N], tl.int32)
    for j0 in range(begin, end, BLOCK_J):
        j = j0 + tl.arange(0, BLOCK_J)
        other_spare = tl.load(Spare_ptr + j, mask=j < end, other=0) != 0
        other = load_distance(Distance_ptr + j, j < end)[None, :]
        better = (other > distance) if RELOCATE else (other < distance)
        tie = (other == distance) & (j[None, :] < row[:, None])
        rank += tl.sum((other_spare[None, :] & (better | tie)).to(tl.int32), axis=1)
    taken = inside & spare & (rank < n_free)
    slot = tl.load(Free_ptr + group * n_slots + rank, mask=taken, other=0)
    tl.store(Slots_ptr + group * n_slots + slot, row.to(tl.int64), mask=taken)
    if RELOCATE:
        tl.store(Moved_ptr + row, taken.to(tl.int8), mask=inside)


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
            num_warps=4,
            **COMPILE,
        )
    return Slots(rows, free, n_free)


def fill_slots(
    slots: Slots, offsets: Tensor, labels: Tensor, distance: Tensor, members: Members, relocate: bool = False
) -> Tensor:
    """Assign a row to every slot.

    Args:
        slots: from :func:`free_slots`; ``slots.rows`` is written.
        offsets: (G+1,) int64.
        labels: (N,) int32.
        distance: (N,) float32.
        members: from the same labels.
        relocate: False: free slots take any remaining row, nearest first. True, with one slot per cluster: they take
            rows of other clusters at a distance above 0, farthest first, and groups without a free slot are skipped.

    Returns:
        (N,) int8, rows that took a free slot; defined with ``relocate`` only, in the groups that have one.
    """
    n_rows = len(labels)
    _, n_clusters, n = slots.rows.shape
    spare = torch.empty(n_rows, dtype=torch.int8, device=labels.device)
    moved = torch.empty(n_rows if relocate else 0, dtype=torch.int8, device=labels.device)
    offsets, labels, distance = dense(offsets), dense(labels), dense(distance)
    with on_device_of(labels):
        tile = tile_map(offsets, n_rows, tiles.RANK_ROWS)
        grid = (len(tile.group),)
        _nearest_slots_kernel[grid](
            offsets,
            tile.group,
            tile.first_row,
            labels,
            distance,
            members.rows,
            members.starts,
            members.counts,
            slots.n_free,
            slots.rows,
            spare,
            n_clusters,
            n,
            RELOCATE=relocate,
            BLOCK_N=tiles.RANK_ROWS,
            BLOCK_J=tiles.RANK_OTHERS,
            num_warps=4,
            **COMPILE,
        )
        _fill_slots_kernel[grid](
            offsets,
            tile.group,
            tile.first_row,
            distance,
            spare,
            slots.free,
            slots.n_free,
            slots.rows,
            moved,
            n_clusters * n,
            RELOCATE=relocate,
            BLOCK_N=tiles.RANK_ROWS,
            BLOCK_J=tiles.RANK_OTHERS,
            num_warps=4,
            **COMPILE,
        )
    return moved
