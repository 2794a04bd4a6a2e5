"""Assignment of every row to the nearest centroid of its group."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import tuned
from .common import compile_options, dense, maybe_dense, on_device_of
from .distance import squared_distance
from .prepare import TileMaps, centre_centroids, round_operand
from .tiles import AssignTile

DOT_PRECISION = {"fp32": "tf32x3", "tf32": "tf32", "bf16": "tf32"}
"""``input_precision`` of ``tl.dot`` by precision; it matters for float32 operands only.

Tensor cores may truncate their running sums. With ``tf32x3`` Triton starts every ``tl.dot`` from zero and adds its
result to the accumulator in fp32, so such a sum is over one tile of features; with the others it is over all of them.
"""


@triton.jit
def _kmeans_assign_kernel(
    X_ptr,  # IN  (N, D)
    Offsets_ptr,  # IN  (G+1,) int64
    C_ptr,  # IN  (G, K, D) float32, for the true distance
    Centred_ptr,  # IN  (G, K, D) operand dtype
    Norm_ptr,  # IN  (G, K) float32
    Mean_ptr,  # IN  (G, D) float32
    TileGroup_ptr,
    TileRow_ptr,
    Active_ptr,  # IN  (G,) bool
    OldLabels_ptr,  # IN  (N,) int32
    OldDistance_ptr,  # IN  (N,) float32
    Labels_ptr,  # OUT (N,) int32
    Distance_ptr,  # OUT (N,) float32
    Changed_ptr,  # OUT (G,) int8, set where a row of an active group changes its label
    K,
    D,
    HAS_ACTIVE: tl.constexpr,
    WITH_CHANGED: tl.constexpr,
    WITH_DISTANCE: tl.constexpr,
    ROUND: tl.constexpr,
    DOT_PRECISION: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_D: tl.constexpr,
    EVEN_D: tl.constexpr,
):
    """label_i = argmin_k |c'_k|^2 - 2 x'_i.c'_k, x' = x - m_g, c' = c - m_g; distance_i = |x_i - c_label|^2.

    |x'_i|^2 is the same for every k, so it is left out of the score.
    """
    group = tl.load(TileGroup_ptr + tl.program_id(0)).to(tl.int64)
    if group < 0:
        return
    end = tl.load(Offsets_ptr + group + 1)
    row = tl.load(TileRow_ptr + tl.program_id(0)) + tl.arange(0, BLOCK_N)
    inside = row < end
    if HAS_ACTIVE and tl.load(Active_ptr + group) == 0:
        tl.store(Labels_ptr + row, tl.load(OldLabels_ptr + row, mask=inside), mask=inside)
        if WITH_DISTANCE:
            tl.store(Distance_ptr + row, tl.load(OldDistance_ptr + row, mask=inside), mask=inside)
        return

    # Rows past the end of the group and clusters past K repeat the last one: loads need no mask, results are dropped.
    row = tl.minimum(row, end - 1)
    d_in_block = tl.arange(0, BLOCK_D)
    x_ptrs = X_ptr + row * D
    best = tl.full([BLOCK_N], float("inf"), tl.float32)
    label = tl.zeros([BLOCK_N], tl.int32)
    for k0 in range(0, K, BLOCK_K):
        k = k0 + tl.arange(0, BLOCK_K)
        c_ptrs = Centred_ptr + group * K * D + tl.minimum(k, K - 1) * D
        product = tl.zeros([BLOCK_N, BLOCK_K], tl.float32)
        for d0 in range(0, D, BLOCK_D):
            d = d0 + d_in_block
            if EVEN_D:
                x = tl.load(x_ptrs[:, None] + d[None, :])
                mean = tl.load(Mean_ptr + group * D + d)
                c = tl.load(c_ptrs[None, :] + d[:, None])
            else:
                x = tl.load(x_ptrs[:, None] + d[None, :], mask=(d < D)[None, :], other=0.0)
                mean = tl.load(Mean_ptr + group * D + d, mask=d < D, other=0.0)
                c = tl.load(c_ptrs[None, :] + d[:, None], mask=(d < D)[:, None], other=0.0)
            centred = round_operand(x.to(tl.float32) - mean[None, :], ROUND).to(c.dtype)
            product = tl.dot(centred, c, product, input_precision=DOT_PRECISION)
        norm = tl.load(Norm_ptr + group * K + k, mask=k < K, other=float("inf"))
        score = norm[None, :] - 2.0 * product
        score = tl.where(score == score, score, float("inf"))
        tile_best, tile_k = tl.min(score, axis=1, return_indices=True, return_indices_tie_break_left=True)
        # Strictly less: among equals the earlier tile, that is the lower index, wins.
        closer = tile_best < best
        best = tl.where(closer, tile_best, best)
        label = tl.where(closer, k0 + tile_k, label)
    tl.store(Labels_ptr + row, label, mask=inside)
    if WITH_CHANGED:
        other = (tl.load(OldLabels_ptr + row) != label) & inside
        if tl.max(other.to(tl.int32), axis=0) > 0:
            tl.store(Changed_ptr + group, 1)
    if WITH_DISTANCE:
        # Not |x'|^2 + best: that cancels for rows close to their centroid, and inherits the precision of the products.
        chosen = C_ptr + (group * K + label) * D
        distance = squared_distance(x_ptrs, chosen, D, BLOCK_N, BLOCK_D, EVEN_D)
        tl.store(Distance_ptr + row, distance, mask=inside)


def kmeans_assign(
    x: Tensor,
    offsets: Tensor,
    centroids: Tensor,
    active: Tensor | None = None,
    labels: Tensor | None = None,
    distance: Tensor | None = None,
    precision: str = "fp32",
    with_distance: bool = True,
    tile: AssignTile | None = None,
    changed: Tensor | None = None,
    maps: TileMaps | None = None,
    live: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Label every row with the nearest live centroid of its group.

    Args:
        x: (N, D) float32, float16 or bfloat16.
        offsets: (G+1,) int64.
        centroids: (G, K, D) float32; a row that is not finite is dead and never chosen.
        active: (G,) bool; rows of inactive groups keep the given ``labels`` and ``distance``.
        labels: (N,) int32, needed beside ``active``.
        distance: (N,) float32, needed beside ``active``.
        precision: of the products that decide the label: ``"fp32"`` (three tf32 products), ``"tf32"`` or ``"bf16"``.
        with_distance: False saves the second pass over ``x``.
        tile: rows, clusters and features per program. Default: that of the table for the GPU, K, D and precision.
        changed: (G,) int8, with ``active``: set to 1 for active groups in which a label is not the given one; the
            others are left alone.
        maps: tile maps of the groups, where some are there.
        live: as in :func:`.prepare.centre_centroids`.

    Returns:
        labels (N,) int32 and squared distances (N,) float32, summed in fp32 whatever ``precision`` is; (0,) without.
    """
    x, offsets, centroids = dense(x), dense(offsets), dense(centroids)
    n_rows, n_features = x.shape
    n_clusters = centroids.shape[1]
    new_labels = torch.empty(n_rows, dtype=torch.int32, device=x.device)
    new_distance = torch.empty(n_rows if with_distance else 0, dtype=torch.float32, device=x.device)
    if len(offsets) < 2:
        return new_labels, new_distance
    tile = tile or tuned.assign_tile(x.device, n_clusters, n_features, precision)
    with on_device_of(x):
        centred = centre_centroids(centroids, precision, live)
        tiling = (maps or TileMaps(offsets, n_rows)).of(tile.rows)
        _kmeans_assign_kernel[(len(tiling.group),)](
            x,
            offsets,
            centroids,
            centred.centroids,
            centred.norms,
            centred.mean,
            tiling.group,
            tiling.first_row,
            maybe_dense(active),
            maybe_dense(labels),
            maybe_dense(distance),
            new_labels,
            new_distance,
            changed,
            n_clusters,
            n_features,
            HAS_ACTIVE=active is not None,
            WITH_CHANGED=changed is not None,
            WITH_DISTANCE=with_distance,
            ROUND=precision,
            DOT_PRECISION=DOT_PRECISION[precision],
            BLOCK_N=tile.rows,
            BLOCK_K=tile.clusters,
            BLOCK_D=tile.features,
            EVEN_D=n_features % tile.features == 0,
            **compile_options(tile.warps),
            num_stages=tile.stages,
        )
    return new_labels, new_distance
