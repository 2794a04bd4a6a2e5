"""Slots of clusters and the rows that fill them: representatives, and new members of empty clusters.

:mod:`.members` lists the slots that are free. The best of the rows that fill no other slot fill them in order.
:mod:`.select` finds the best rows, in time linear in the rows.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import tiles
from .common import compile_options, dense, on_device_of
from .members import Members
from .select import ranks_of_taken, select_rows


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


def fill_slots(members: Members, offsets: Tensor, distance: Tensor, relocate: bool = False) -> Tensor:
    """Assign a row to every slot.

    Args:
        members: the members of every cluster with their slots, whose ``rows`` are written.
        offsets: (G+1,) int64.
        distance: (N,) float32.
        relocate: False: free slots take any remaining row, nearest first. True, with one slot per cluster: they take
            rows of other clusters at a distance above 0, farthest first, and groups without a free slot are skipped.

    Returns:
        (N,) int8, rows that took a free slot; defined with ``relocate`` only, in the groups that have one.
    """
    slots = members.slots
    assert slots is not None, "slots were asked for"
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
