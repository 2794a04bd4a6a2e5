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
from .ties import enter_three_lowest, nearer
from .tiles import AssignTile

PRECISIONS = ("fp32", "tf32", "bf16")

ROUNDED = 2.0**-10 * 1.001
"""Error of the product of two rows that were rounded to tf32, relative to the product of their norms.

Each has a significand of 11 bits, so a value is off by 2^-11 of itself at most (Cauchy and Schwarz).
"""
TRUNCATED = 2.0**-24
"""The same for every feature, because tensor cores may truncate the running sum.

They add eight features or more at a time, and a sum that is cut to 24 bits loses 2^-23 of itself.
"""


@triton.jit
def _products(
    x_ptrs,
    mean_ptrs,
    c_ptrs,
    D,
    FIRST: tl.constexpr,
    ROUND: tl.constexpr,
    DOT_PRECISION: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_D: tl.constexpr,
    EVEN_D: tl.constexpr,
):
    """Products of centred rows with centroids. FIRST: these are centred, and |x'|^2 is computed too.

    With ``tf32x3`` Triton starts every ``tl.dot`` from zero and adds its result to the accumulator in fp32, so a sum
    within the tensor core is over one tile of features; with ``tf32`` it is over all of them.
    """
    product = tl.zeros([BLOCK_N, BLOCK_K], tl.float32)
    squares = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
    for d0 in range(0, D, BLOCK_D):
        d = d0 + tl.arange(0, BLOCK_D)
        if EVEN_D:
            x = tl.load(x_ptrs[:, None] + d[None, :])
            mean = tl.load(mean_ptrs + d)
            c = tl.load(c_ptrs[None, :] + d[:, None])
        else:
            x = tl.load(x_ptrs[:, None] + d[None, :], mask=(d < D)[None, :], other=0.0)
            mean = tl.load(mean_ptrs + d, mask=d < D, other=0.0)
            c = tl.load(c_ptrs[None, :] + d[:, None], mask=(d < D)[:, None], other=0.0)
        centred = x.to(tl.float32) - mean[None, :]
        if FIRST:
            squares += centred * centred
        else:
            c = c - mean[:, None]
        product = tl.dot(round_operand(centred, ROUND).to(c.dtype), c, product, input_precision=DOT_PRECISION)
    return product, tl.sum(squares, axis=1)


@triton.jit
def _scores(norm, product):
    """The squared distance without |x'|^2, which is the same for every centroid; infinite where it is NaN."""
    score = norm[None, :] - 2.0 * product
    return tl.where(score == score, score, float("inf"))


@triton.jit
def _kmeans_assign_kernel(
    X_ptr,  # IN  (N, D)
    Offsets_ptr,  # IN  (G+1,) int64
    C_ptr,  # IN  (G, K, D) float32, for true distances
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
    product_error,  # bound relative to |x'||c'|
    norm_error,  # of the sum of squares, relative to |c'|^2
    HAS_ACTIVE: tl.constexpr,
    WITH_CHANGED: tl.constexpr,
    WITH_DISTANCE: tl.constexpr,
    EXACT: tl.constexpr,
    ROUND: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_D: tl.constexpr,
    EVEN_D: tl.constexpr,
):
    """label_i = argmin_k |c'_k|^2 - 2 x'_i.c'_k, x' = x - m_g, c' = c - m_g; distance_i = |x_i - c_label|^2.

    EXACT: where the second lowest score is within the error bound of the lowest, true distances decide between the two;
    where the third is, products of three times the accuracy between all.
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
    x_ptrs = X_ptr + row * D
    best = tl.full([BLOCK_N], float("inf"), tl.float32)
    label = tl.zeros([BLOCK_N], tl.int32)
    second, third, runner_up = best, best, label
    size = tl.zeros([BLOCK_N], tl.float32)
    largest = tl.zeros([], tl.float32)
    for k0 in range(0, K, BLOCK_K):
        k = k0 + tl.arange(0, BLOCK_K)
        c_ptrs = Centred_ptr + group * K * D + tl.minimum(k, K - 1) * D
        product, size = _products(
            x_ptrs, Mean_ptr + group * D, c_ptrs, D, True, ROUND, "tf32", BLOCK_N, BLOCK_K, BLOCK_D, EVEN_D
        )
        norm = tl.load(Norm_ptr + group * K + k, mask=k < K, other=float("inf"))
        score = _scores(norm, product)
        if EXACT:
            best, label, second, runner_up, third = enter_three_lowest(
                score, k0, best, label, second, runner_up, third, BLOCK_K
            )
            largest = tl.maximum(largest, tl.max(tl.where(norm < float("inf"), norm, 0.0), axis=0))
        else:
            tile_best, tile_k = tl.min(score, axis=1, return_indices=True, return_indices_tie_break_left=True)
            # Strictly less: among equals the earlier tile, that is the lower index, wins.
            closer = tile_best < best
            best = tl.where(closer, tile_best, best)
            label = tl.where(closer, k0 + tile_k, label)
    if EXACT:
        # Two scores that are off by this much each may change places.
        error = 2.0 * product_error * tl.sqrt(size) * tl.sqrt(largest) + norm_error * largest
        limit = best + 2.0 * error
        close = inside & (second <= limit) & (second < float("inf"))
        several = close & (third <= limit) & (third < float("inf"))
        if tl.max(close.to(tl.int32), axis=0) > 0:
            own = C_ptr + group * K * D
            label = nearer(x_ptrs, own, label, runner_up, close & (several == 0), D, BLOCK_N, BLOCK_D, EVEN_D)
        if tl.max(several.to(tl.int32), axis=0) > 0:
            FEWER_K: tl.constexpr = min(BLOCK_K, 32)  # as many sums again would spill registers
            best = tl.full([BLOCK_N], float("inf"), tl.float32)
            nearest = tl.zeros([BLOCK_N], tl.int32)
            for k0 in range(0, K, FEWER_K):
                k = k0 + tl.arange(0, FEWER_K)
                c_ptrs = C_ptr + group * K * D + tl.minimum(k, K - 1) * D
                product, _size = _products(
                    x_ptrs, Mean_ptr + group * D, c_ptrs, D, False, "fp32", "tf32x3", BLOCK_N, FEWER_K, BLOCK_D, EVEN_D
                )
                norm = tl.load(Norm_ptr + group * K + k, mask=k < K, other=float("inf"))
                score = _scores(norm, product)
                tile_best, tile_k = tl.min(score, axis=1, return_indices=True, return_indices_tie_break_left=True)
                nearest = tl.where(tile_best < best, k0 + tile_k, nearest)
                best = tl.minimum(best, tile_best)
            label = tl.where(several, nearest, label)
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
        precision: of the products that decide the label: ``"tf32"``, ``"bf16"``, or ``"fp32"``: those of tf32, and true
            distances where these leave a choice.
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
            ROUNDED + n_features * TRUNCATED,
            (n_features / 128 + 16) * 2.0**-24,
            HAS_ACTIVE=active is not None,
            WITH_CHANGED=changed is not None,
            WITH_DISTANCE=with_distance,
            EXACT=precision == "fp32",
            ROUND="tf32" if precision == "fp32" else precision,
            BLOCK_N=tile.rows,
            BLOCK_K=tile.clusters,
            BLOCK_D=tile.features,
            EVEN_D=n_features % tile.features == 0,
            **compile_options(tile.warps),
            num_stages=tile.stages,
        )
    return new_labels, new_distance
