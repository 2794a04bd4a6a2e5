"""Means of the clusters of every group."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import tiles
from .common import compile_options, dense, maybe_dense, on_device_of
from .distance import own_distance
from .members import Progress, member_lists
from .prepare import TileMaps
from .slots import fill_slots


@triton.jit
def _kmeans_update_kernel(
    X_ptr,  # IN  (N, D)
    Rows_ptr,  # IN  (N,) int32, member lists
    Starts_ptr,  # IN  (G, K+1) int32
    Counts_ptr,  # IN  (G, K) int32
    Previous_ptr,  # IN  (G, K, D) float32
    Active_ptr,  # IN  (G,) bool
    NFree_ptr,  # IN  (G,) int32, empty clusters of each group
    Slots_ptr,  # IN  (G, K) int64, the row an empty cluster takes, or -1
    Moved_ptr,  # IN  (N,) int8, rows taken by an empty cluster
    Mean_ptr,  # OUT (G, K, D) float32
    MeanCount_ptr,  # OUT (G, K) int32
    Live_ptr,  # OUT (G, K, blocks of features) int8, whether the values of the mean are finite
    K,
    D,
    HAS_PREVIOUS: tl.constexpr,
    HAS_ACTIVE: tl.constexpr,
    RELOCATE: tl.constexpr,
    WITH_LIVE: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """c_gk = sum of members / number of members, in float64, rounded once.

    Every row is converted and added once, so the time of double precision is hidden behind reading the rows. It makes
    the mean of equal rows exactly that row, and the order of the sum affects only the last bits of a double.
    """
    cluster = tl.program_id(0).to(tl.int64)
    group = cluster // K
    d = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    in_d = d < D
    start = tl.load(Starts_ptr + cluster + group)
    n_listed = tl.load(Counts_ptr + cluster)
    n_summed = n_listed
    if HAS_ACTIVE:
        active = tl.load(Active_ptr + group) != 0
        n_summed = tl.where(active, n_listed, 0)
    if RELOCATE:
        rescue = tl.load(NFree_ptr + group) > 0

    total = tl.zeros([BLOCK_M, BLOCK_D], tl.float64)
    left = tl.zeros([BLOCK_M], tl.int32)
    for m0 in range(0, n_summed, BLOCK_M):
        m = m0 + tl.arange(0, BLOCK_M)
        row = tl.load(Rows_ptr + start + m, mask=m < n_summed, other=0).to(tl.int64)
        stays = m < n_summed
        if RELOCATE and rescue:
            moved = tl.load(Moved_ptr + row, mask=stays, other=0) != 0
            left += moved.to(tl.int32)
            stays = stays & (moved == 0)
        x = tl.load(X_ptr + row[:, None] * D + d[None, :], mask=stays[:, None] & in_d[None, :], other=0.0)
        total += x.to(tl.float32).to(tl.float64)
    count = n_summed - tl.sum(left, axis=0)
    mean = (tl.sum(total, axis=0) / tl.maximum(count, 1).to(tl.float64)).to(tl.float32)

    if RELOCATE and rescue and n_listed == 0:
        taken = tl.load(Slots_ptr + cluster)
        if taken >= 0:
            mean = tl.load(X_ptr + taken * D + d, mask=in_d, other=0.0).to(tl.float32)
            count = tl.full([], 1, tl.int32)
    if count == 0:
        if HAS_PREVIOUS:
            mean = tl.load(Previous_ptr + cluster * D + d, mask=in_d, other=0.0)
        else:
            mean = tl.full([BLOCK_D], float("nan"), tl.float32)
    tl.store(Mean_ptr + cluster * D + d, mean, mask=in_d)
    if WITH_LIVE:
        bad = in_d & ((tl.abs(mean) < float("inf")) == 0)
        live = tl.sum(bad.to(tl.int32), axis=0) == 0
        tl.store(Live_ptr + cluster * tl.num_programs(1) + tl.program_id(1), live.to(tl.int8))
    if HAS_ACTIVE:
        count = tl.where(active, count, n_listed)
    if tl.program_id(1) == 0:
        tl.store(MeanCount_ptr + cluster, count)


def kmeans_update(
    x: Tensor,
    offsets: Tensor,
    labels: Tensor,
    n_clusters: int,
    distance: Tensor | None = None,
    previous: Tensor | None = None,
    active: Tensor | None = None,
    empty: str = "keep",
    maps: TileMaps | None = None,
    progress: Progress | None = None,
    live: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Replace every centroid by the mean of its members.

    Args:
        x: (N, D) float32, float16 or bfloat16.
        offsets: (G+1,) int64.
        labels: (N,) int32 within the group; a row labelled outside 0..K-1 belongs to no cluster.
        n_clusters: K.
        distance: (N,) float32, used by ``empty="farthest"``. Where None, the distances to ``previous`` are computed, in
            the groups that have an empty cluster only.
        previous: (G, K, D) float32; what empty clusters and inactive groups keep.
        active: (G,) bool; inactive groups keep ``previous``.
        empty: ``"keep"``, or ``"farthest"``: the e-th empty cluster takes the row with the e-th largest distance.
        maps: tile maps of the groups, where some are there.
        progress: of an iteration, in place of ``active``: brought up to date, and the groups that go on are updated.
        live: from :func:`empty_live`; written where the values of a part of a centroid are finite.

    Returns:
        centroids (G, K, D) float32 and counts (G, K) int32.
    """
    x, offsets, labels = dense(x), dense(offsets), dense(labels)
    previous, active = maybe_dense(previous), maybe_dense(active)
    n_groups, n_features = len(offsets) - 1, x.shape[1]
    means = torch.empty((n_groups, n_clusters, n_features), dtype=torch.float32, device=x.device)
    counts = torch.empty((n_groups, n_clusters), dtype=torch.int32, device=x.device)
    if n_groups < 1:
        return means, counts
    members = member_lists(offsets, labels, n_clusters, int(empty == "farthest"), active, progress, maps)
    active = active if progress is None else progress.going
    slots, moved = members.slots, None
    if slots is not None:
        if distance is None:
            assert previous is not None, "distances are computed to previous"
            distance = own_distance(x, offsets, previous, labels, needed=slots.n_free, maps=maps)
        moved = fill_slots(members, offsets, distance, relocate=True)
    tile = tiles.gather_tile(n_features)
    with on_device_of(x):
        _kmeans_update_kernel[(n_groups * n_clusters, triton.cdiv(n_features, tile.features))](
            x,
            members.rows,
            members.starts,
            members.counts,
            previous,
            active,
            None if slots is None else slots.n_free,
            None if slots is None else slots.rows,
            moved,
            means,
            counts,
            live,
            n_clusters,
            n_features,
            HAS_PREVIOUS=previous is not None,
            HAS_ACTIVE=active is not None,
            RELOCATE=slots is not None,
            WITH_LIVE=live is not None,
            BLOCK_M=tile.rows,
            BLOCK_D=tile.features,
            **compile_options(tile.warps),
        )
    return means, counts


def empty_live(centroids: Tensor) -> Tensor:
    """Room for what :func:`kmeans_update` says of the parts of such centroids, (G, K, P) int8."""
    n_groups, n_clusters, n_features = centroids.shape
    n_parts = triton.cdiv(n_features, tiles.gather_tile(n_features).features)
    return torch.empty((n_groups, n_clusters, n_parts), dtype=torch.int8, device=centroids.device)
