"""Member lists: the rows of every cluster, in row order, by a counting sort in integers.

The scan of the sort knows how many members every cluster of a group has. So it also lists the slots that they leave
free, and notes which groups an iteration goes on with.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import tiles
from .common import compile_options, dense, on_device_of
from .prepare import TileMaps


class Slots(NamedTuple):
    """K*n slots per group: slot (k, j) belongs to the j-th member of cluster k nearest its centroid.

    Slots beyond the number of members are free.
    """

    rows: Tensor
    """(G, K, n) int64, global row indices; -1 where free."""
    free: Tensor
    """(G, K*n) int32, indices of the free slots, in order; only the first ``n_free`` entries are defined."""
    n_free: Tensor
    """(G,) int32, number of free slots; 0 in groups that are not active."""


class Progress(NamedTuple):
    """Flags and counters of the iteration of every group, which the scan brings up to date."""

    changed: Tensor
    """(G,) int8, whether a row has a new label; cleared for the next iteration."""
    active: Tensor
    """(G,) bool"""
    going: Tensor
    """(G,) bool, written: active groups that changed."""
    fixed: Tensor
    """(G,) bool; active groups that did not change are added."""
    n_iter: Tensor
    """(G,) int32, updates of a group; those that go on are counted."""


class Members(NamedTuple):
    """Rows sorted by (group, cluster, row). Rows whose label is outside 0..K-1 follow the last cluster."""

    rows: Tensor
    """(N,) int32, global row indices."""
    starts: Tensor
    """(G, K+1) int32, where each cluster begins in ``rows``; the last column is where the unlabelled rows begin."""
    counts: Tensor
    """(G, K) int32"""
    slots: Slots | None
    """Slots of the n nearest members, if they were asked for: the free ones listed, the others to be filled."""


@triton.jit
def cluster_of(label, K):
    """The label, or K for every label that names no cluster."""
    return tl.where((label >= 0) & (label < K), label, K)


@triton.jit
def _cluster_histogram_kernel(
    Labels_ptr, Offsets_ptr, TileGroup_ptr, TileRow_ptr, Earlier_ptr, K, ROWS: tl.constexpr, BINS: tl.constexpr
):
    """Earlier[tile, k] = number of the tile's rows in cluster k."""
    tile = tl.program_id(0).to(tl.int64)
    group = tl.load(TileGroup_ptr + tile)
    if group < 0:
        return
    row = tl.load(TileRow_ptr + tile) + tl.arange(0, ROWS)
    inside = row < tl.load(Offsets_ptr + group + 1)
    label = cluster_of(tl.load(Labels_ptr + row, mask=inside, other=-1), K)
    counts = tl.histogram(label, BINS, mask=inside)
    k = tl.arange(0, BINS)
    tl.store(Earlier_ptr + tile * (K + 1) + k, counts, mask=k <= K)


@triton.jit
def _note_progress(group, Changed_ptr, Active_ptr, Going_ptr, Fixed_ptr, Count_ptr):
    """going = active and changed; an active group that is not has reached its fixpoint."""
    active = tl.load(Active_ptr + group) != 0
    going = active & (tl.load(Changed_ptr + group) != 0)
    fixed = tl.load(Fixed_ptr + group) != 0
    count = tl.load(Count_ptr + group)
    tl.debug_barrier()  # every thread has read what one of them writes
    tl.store(Changed_ptr + group, 0)
    tl.store(Going_ptr + group, going)
    tl.store(Fixed_ptr + group, fixed | (active & (going == 0)))
    tl.store(Count_ptr + group, count + going.to(tl.int32))
    return going


@triton.jit
def _list_free_slots(group, k, counts, K, n, Slots_ptr, Free_ptr):
    """Slot (k, j) is free where j >= count_k; returns how many are."""
    free = tl.where(k < K, tl.maximum(n - counts, 0), 0)
    first = tl.cumsum(free, axis=0) - free
    own = group * K * n
    for j in range(tl.min(tl.where(k < K, counts, n), axis=0), n):
        is_free = (k < K) & (j >= counts)
        tl.store(Slots_ptr + own + k * n + j, tl.full(k.shape, -1, tl.int64), mask=is_free)
        tl.store(Free_ptr + own + first + j - counts, k * n + j, mask=is_free)
    return tl.sum(free, axis=0)


@triton.jit
def _cluster_scan_kernel(
    Offsets_ptr,
    GroupTile_ptr,
    Earlier_ptr,  # IN number of rows in each tile by cluster, OUT the same in the earlier tiles of the group
    Starts_ptr,
    Counts_ptr,
    Changed_ptr,  # these five as in Progress
    Active_ptr,
    Going_ptr,
    Fixed_ptr,
    Count_ptr,
    Slots_ptr,  # these three as in Slots
    Free_ptr,
    NFree_ptr,
    K,
    n,
    HAS_ACTIVE: tl.constexpr,
    WITH_PROGRESS: tl.constexpr,
    WITH_SLOTS: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BINS: tl.constexpr,
):
    """Exclusive sums over the tiles of a group, then over its clusters."""
    group = tl.program_id(0).to(tl.int64)
    begin = tl.load(Offsets_ptr + group)
    end = tl.load(Offsets_ptr + group + 1)
    n_tiles = ((end - begin + ROWS - 1) // ROWS).to(tl.int32)
    first = tl.load(GroupTile_ptr + group).to(tl.int64)
    k = tl.arange(0, BINS)
    counts = tl.zeros([BINS], tl.int32)
    for t0 in range(0, n_tiles, BLOCK_T):
        t = t0 + tl.arange(0, BLOCK_T)
        entries = Earlier_ptr + (first + t)[:, None] * (K + 1) + k[None, :]
        mask = (t < n_tiles)[:, None] & (k <= K)[None, :]
        here = tl.load(entries, mask=mask, other=0)
        tl.store(entries, counts[None, :] + tl.cumsum(here, axis=0) - here, mask=mask)
        counts += tl.sum(here, axis=0)
    start = begin.to(tl.int32) + tl.cumsum(counts, axis=0) - counts
    tl.store(Starts_ptr + group * (K + 1) + k, start, mask=k <= K)
    tl.store(Counts_ptr + group * K + k, counts, mask=k < K)
    active = True
    if WITH_PROGRESS:
        active = _note_progress(group, Changed_ptr, Active_ptr, Going_ptr, Fixed_ptr, Count_ptr)
    elif HAS_ACTIVE:
        active = tl.load(Active_ptr + group) != 0
    if WITH_SLOTS:
        n_free = _list_free_slots(group, k, counts, K, n, Slots_ptr, Free_ptr)
        tl.store(NFree_ptr + group, tl.where(active, n_free, 0))


@triton.jit
def _member_scatter_kernel(
    Labels_ptr,
    Offsets_ptr,
    TileGroup_ptr,
    TileRow_ptr,
    Earlier_ptr,
    Starts_ptr,
    Rows_ptr,  # OUT (N,) int32
    K,
    ROWS: tl.constexpr,
    BLOCK_OTHERS: tl.constexpr,
):
    """position_i = start of the cluster + its rows in earlier tiles + its rows before i in this tile."""
    tile = tl.program_id(0).to(tl.int64)
    group = tl.load(TileGroup_ptr + tile).to(tl.int64)
    if group < 0:
        return
    end = tl.load(Offsets_ptr + group + 1)
    first = tl.load(TileRow_ptr + tile)
    n_rows = (end - first).to(tl.int32)
    i = tl.arange(0, ROWS)
    inside = i < n_rows
    label = cluster_of(tl.load(Labels_ptr + first + i, mask=inside, other=-1), K)
    before = tl.zeros([ROWS], tl.int32)
    for j0 in range(0, tl.minimum(n_rows, ROWS), BLOCK_OTHERS):
        j = j0 + tl.arange(0, BLOCK_OTHERS)
        other = cluster_of(tl.load(Labels_ptr + first + j, mask=j < n_rows, other=-1), K)
        same = (other[None, :] == label[:, None]) & (j[None, :] < i[:, None])
        before += tl.sum(same.to(tl.int32), axis=1)
    start = tl.load(Starts_ptr + group * (K + 1) + label, mask=inside, other=0)
    earlier = tl.load(Earlier_ptr + tile * (K + 1) + label, mask=inside, other=0)
    tl.store(Rows_ptr + start + earlier + before, (first + i).to(tl.int32), mask=inside)


def member_lists(
    offsets: Tensor,
    labels: Tensor,
    n_clusters: int,
    n_slots: int = 0,
    active: Tensor | None = None,
    progress: Progress | None = None,
    maps: TileMaps | None = None,
) -> Members:
    """Sort the rows of every group by cluster, stably.

    Args:
        offsets: (G+1,) int64, G >= 1.
        labels: (N,) int32 within the group.
        n_clusters: K.
        n_slots: slots of every cluster; 0 for none.
        active: (G,) bool; other groups offer no free slots.
        progress: brought up to date; ``active`` then are the groups that go on.
        maps: tile maps of the groups, where some are there.

    Returns:
        Members: exact and deterministic, as only integers are added.
    """
    device = labels.device
    n_rows, n_groups = len(labels), len(offsets) - 1
    bins = triton.next_power_of_2(n_clusters + 1)
    rows = torch.empty(n_rows, dtype=torch.int32, device=device)
    starts = torch.empty((n_groups, n_clusters + 1), dtype=torch.int32, device=device)
    counts = torch.empty((n_groups, n_clusters), dtype=torch.int32, device=device)
    slots = _empty_slots(n_groups, n_clusters, n_slots, device) if n_slots else None
    offsets, labels = dense(offsets), dense(labels)
    with on_device_of(labels):
        tile = (maps or TileMaps(offsets, n_rows)).of(tiles.MEMBER_ROWS)
        n_tiles = len(tile.group)
        earlier = torch.empty((n_tiles, n_clusters + 1), dtype=torch.int32, device=device)
        _cluster_histogram_kernel[(n_tiles,)](
            labels,
            offsets,
            tile.group,
            tile.first_row,
            earlier,
            n_clusters,
            ROWS=tiles.MEMBER_ROWS,
            BINS=bins,
            **compile_options(4),
        )
        _cluster_scan_kernel[(n_groups,)](
            offsets,
            tile.first_tile,
            earlier,
            starts,
            counts,
            *_progress_arguments(progress, active),
            *(slots or (None,) * len(Slots._fields)),
            n_clusters,
            n_slots,
            HAS_ACTIVE=active is not None,
            WITH_PROGRESS=progress is not None,
            WITH_SLOTS=slots is not None,
            ROWS=tiles.MEMBER_ROWS,
            BLOCK_T=max(1, tiles.MEMBER_SCAN // bins),
            BINS=bins,
            **compile_options(8),
        )
        _member_scatter_kernel[(n_tiles,)](
            labels,
            offsets,
            tile.group,
            tile.first_row,
            earlier,
            starts,
            rows,
            n_clusters,
            ROWS=tiles.MEMBER_ROWS,
            BLOCK_OTHERS=tiles.RANK_OTHERS,
            **compile_options(4),
        )
    return Members(rows, starts, counts, slots)


def _progress_arguments(progress: Progress | None, active: Tensor | None) -> tuple[Tensor | None, ...]:
    return (None, active, None, None, None) if progress is None else progress


def _empty_slots(n_groups: int, n_clusters: int, n: int, device: torch.device) -> Slots:
    rows = torch.empty((n_groups, n_clusters, n), dtype=torch.int64, device=device)
    free = torch.empty((n_groups, n_clusters * n), dtype=torch.int32, device=device)
    return Slots(rows, free, torch.empty(n_groups, dtype=torch.int32, device=device))
