"""Means of the clusters of every group."""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import tiles
from .common import compile_options, dense, maybe_dense, on_device_of
from .distance import own_distance
from .members import Members, Progress, member_lists
from .prepare import TileMaps
from .row_sums import all_finite, sum_of_rows, sum_of_staying
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
    Sums_ptr,  # OUT (G, K, D) float64, of the members, taken or not; undefined in inactive groups
    Live_ptr,  # OUT (G, K, blocks of features) int8, whether the values of the mean are finite
    K,
    D,
    HAS_PREVIOUS: tl.constexpr,
    HAS_ACTIVE: tl.constexpr,
    RELOCATE: tl.constexpr,
    WITH_SUMS: tl.constexpr,
    WITH_LIVE: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """c_gk = sum of members / number of members, in float64, rounded once."""
    cluster = tl.program_id(0).to(tl.int64)
    group = cluster // K
    d = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    in_d = d < D
    rows_ptr = Rows_ptr + tl.load(Starts_ptr + cluster + group)
    n_listed = tl.load(Counts_ptr + cluster)
    count = n_listed
    if HAS_ACTIVE:
        active = tl.load(Active_ptr + group) != 0
        count = tl.where(active, n_listed, 0)
    total = sum_of_rows(X_ptr, rows_ptr, count, d, D, BLOCK_M, BLOCK_D)
    if WITH_SUMS:
        tl.store(Sums_ptr + cluster * D + d, total, mask=in_d)
    if RELOCATE:
        rescue = tl.load(NFree_ptr + group) > 0
        if rescue:
            total, count = sum_of_staying(X_ptr, rows_ptr, count, Moved_ptr, d, D, BLOCK_M, BLOCK_D)
    mean = (total / tl.maximum(count, 1).to(tl.float64)).to(tl.float32)

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
        tl.store(Live_ptr + cluster * tl.num_programs(1) + tl.program_id(1), all_finite(mean, in_d))
    if HAS_ACTIVE:
        count = tl.where(active, count, n_listed)
    if tl.program_id(1) == 0:
        tl.store(MeanCount_ptr + cluster, count)


class Membership(NamedTuple):
    """The members of every cluster, and the rows that empty clusters take."""

    members: Members
    active: Tensor | None
    """(G,) bool, groups to update; None for all."""
    moved: Tensor | None
    """(N,) int8, rows taken by an empty cluster, defined in groups that have one; None where none takes any."""


def membership(
    x: Tensor,
    offsets: Tensor,
    labels: Tensor,
    n_clusters: int,
    distance: Tensor | None,
    previous: Tensor | None,
    active: Tensor | None,
    empty: str,
    maps: TileMaps | None = None,
    progress: Progress | None = None,
) -> Membership:
    """Find members and the rows for empty clusters; arguments as of :func:`kmeans_update`, of at least one group.

    With the ``progress`` of an iteration, which is brought up to date, the groups that go on are active.
    """
    members = member_lists(offsets, labels, n_clusters, int(empty == "farthest"), active, progress, maps)
    active = active if progress is None else progress.going
    moved = None
    if members.slots is not None:
        if distance is None:
            assert previous is not None, "distances are computed to previous"
            distance = own_distance(x, offsets, previous, labels, needed=members.slots.n_free, maps=maps)
        moved = fill_slots(members, offsets, distance, relocate=True)
    return Membership(members, active, moved)


def member_means(
    x: Tensor,
    found: Membership,
    previous: Tensor | None = None,
    sums: Tensor | None = None,
    live: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Centroids (G, K, D) and counts (G, K) of :func:`kmeans_update` from its membership.

    Args:
        x: (N, D).
        found: of :func:`membership`.
        previous: (G, K, D) float32; what empty clusters and inactive groups keep.
        sums: (G, K, D) float64, written: those of the members.
        live: from :func:`empty_live`; written where the values of a part of a centroid are finite.
    """
    members, n_features = found.members, x.shape[1]
    n_groups, n_clusters = members.counts.shape
    means = torch.empty((n_groups, n_clusters, n_features), dtype=torch.float32, device=x.device)
    counts = torch.empty((n_groups, n_clusters), dtype=torch.int32, device=x.device)
    tile, slots = tiles.gather_tile(n_features), members.slots
    with on_device_of(x):
        _kmeans_update_kernel[(n_groups * n_clusters, triton.cdiv(n_features, tile.features))](
            x,
            members.rows,
            members.starts,
            members.counts,
            previous,
            found.active,
            None if slots is None else slots.n_free,
            None if slots is None else slots.rows,
            found.moved,
            means,
            counts,
            sums,
            live,
            n_clusters,
            n_features,
            HAS_PREVIOUS=previous is not None,
            HAS_ACTIVE=found.active is not None,
            RELOCATE=slots is not None,
            WITH_SUMS=sums is not None,
            WITH_LIVE=live is not None,
            BLOCK_M=tile.rows,
            BLOCK_D=tile.features,
            **compile_options(tile.warps),
        )
    return means, counts


def kmeans_update(
    x: Tensor,
    offsets: Tensor,
    labels: Tensor,
    n_clusters: int,
    distance: Tensor | None = None,
    previous: Tensor | None = None,
    active: Tensor | None = None,
    empty: str = "keep",
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

    Returns:
        centroids (G, K, D) float32 and counts (G, K) int32.
    """
    x, offsets, labels = dense(x), dense(offsets), dense(labels)
    previous, active = maybe_dense(previous), maybe_dense(active)
    n_groups = len(offsets) - 1
    if n_groups < 1:
        means = torch.empty((0, n_clusters, x.shape[1]), dtype=torch.float32, device=x.device)
        return means, torch.empty((0, n_clusters), dtype=torch.int32, device=x.device)
    return member_means(x, membership(x, offsets, labels, n_clusters, distance, previous, active, empty), previous)


def empty_live(centroids: Tensor) -> Tensor:
    """Room for what :func:`member_means` says of the parts of such centroids, (G, K, P) int8."""
    n_groups, n_clusters, n_features = centroids.shape
    n_parts = triton.cdiv(n_features, tiles.gather_tile(n_features).features)
    return torch.empty((n_groups, n_clusters, n_parts), dtype=torch.int8, device=centroids.device)
