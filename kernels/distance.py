"""Squared distance of every row to one centroid of its group, from the differences."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import tiles
from .common import compile_options, dense, on_device_of
from .prepare import TileMaps


@triton.jit
def squared_distance(x_ptrs, c_ptrs, D, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, EVEN_D: tl.constexpr):
    """sum_d (x - c)^2 of BLOCK_N pairs of rows in fp32; infinity where it is NaN, because the centroid is dead."""
    squares = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
    for d0 in range(0, D, BLOCK_D):
        d = d0 + tl.arange(0, BLOCK_D)
        if EVEN_D:
            x = tl.load(x_ptrs[:, None] + d[None, :])
            c = tl.load(c_ptrs[:, None] + d[None, :])
        else:
            x = tl.load(x_ptrs[:, None] + d[None, :], mask=(d < D)[None, :], other=0.0)
            c = tl.load(c_ptrs[:, None] + d[None, :], mask=(d < D)[None, :], other=0.0)
        difference = x.to(tl.float32) - c
        squares += difference * difference
    distance = tl.sum(squares, axis=1)
    return tl.where(distance == distance, distance, float("inf"))


@triton.jit
def _own_distance_kernel(
    X_ptr,  # IN  (N, D)
    Offsets_ptr,  # IN  (G+1,) int64
    C_ptr,  # IN  (G, K, D) float32
    Labels_ptr,  # IN  (N,) int32
    TileGroup_ptr,
    TileRow_ptr,
    Needed_ptr,  # IN  (G,) int32; groups with 0 are skipped
    Distance_ptr,  # OUT (N,) float32
    K,
    D,
    EVERY_GROUP: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
    EVEN_D: tl.constexpr,
):
    """d_i = |x_i - c_{label_i}|^2; infinite for a label outside [0, K)."""
    group = tl.load(TileGroup_ptr + tl.program_id(0)).to(tl.int64)
    if group < 0:
        return
    if not EVERY_GROUP and tl.load(Needed_ptr + group) == 0:
        return
    end = tl.load(Offsets_ptr + group + 1)
    row = tl.load(TileRow_ptr + tl.program_id(0)) + tl.arange(0, BLOCK_N)
    inside = row < end
    row = tl.minimum(row, end - 1)
    label = tl.load(Labels_ptr + row)
    valid = (label >= 0) & (label < K)
    cluster = group * K + tl.where(valid, label, 0)
    distance = squared_distance(X_ptr + row * D, C_ptr + cluster * D, D, BLOCK_N, BLOCK_D, EVEN_D)
    tl.store(Distance_ptr + row, tl.where(valid, distance, float("inf")), mask=inside)


def own_distance(
    x: Tensor,
    offsets: Tensor,
    centroids: Tensor,
    labels: Tensor,
    needed: Tensor | None = None,
    maps: TileMaps | None = None,
) -> Tensor:
    """Squared distance of every row to the centroid it is labelled with.

    Args:
        x: (N, D).
        offsets: (G+1,) int64.
        centroids: (G, K, D) float32.
        labels: (N,) int32; infinite distance where outside 0..K-1.
        needed: (G,) int32; the rows of groups with 0 are skipped, their distances are undefined. Default: all groups.
        maps: tile maps of the groups, where some are there.

    Returns:
        (N,) float32.
    """
    x, offsets, centroids, labels = dense(x), dense(offsets), dense(centroids), dense(labels)
    n_rows, n_features = x.shape
    distance = torch.empty(n_rows, dtype=torch.float32, device=x.device)
    if len(offsets) < 2:
        return distance
    sweep = tiles.sweep_tile(n_features)
    with on_device_of(x):
        tile = (maps or TileMaps(offsets, n_rows)).of(sweep.rows)
        _own_distance_kernel[(len(tile.group),)](
            x,
            offsets,
            centroids,
            labels,
            tile.group,
            tile.first_row,
            needed,
            distance,
            centroids.shape[1],
            n_features,
            EVERY_GROUP=needed is None,
            BLOCK_N=sweep.rows,
            BLOCK_D=sweep.features,
            EVEN_D=n_features % sweep.features == 0,
            **compile_options(sweep.warps),
        )
    return distance
