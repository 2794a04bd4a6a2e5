"""Preparation of an assignment: the map of row tiles, and centroids relative to the mean of their group's."""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import tiles
from .common import compile_options, interpreted


class TileMap(NamedTuple):
    """Tiles of at most ``rows`` rows that never cross a group."""

    group: Tensor
    """(T,) int32, -1 for unused tiles: T is the largest number of tiles that G groups and N rows can need."""
    first_row: Tensor
    """(T,) int64"""
    first_tile: Tensor
    """(G,) int32, the first tile of every group."""


@triton.jit(do_not_specialize=["G", "T"])
def _tile_map_kernel(
    Offsets_ptr,  # IN  (G+1,) int64
    TileGroup_ptr,  # OUT (T,) int32
    TileRow_ptr,  # OUT (T,) int64
    GroupTile_ptr,  # OUT (G,) int32
    G,
    T,
    ROWS: tl.constexpr,
    BLOCK_G: tl.constexpr,
    BLOCK_T: tl.constexpr,
):
    """Tile t belongs to the group with stop[g-1] <= t < stop[g], stop = running sum of ceil(rows of g / ROWS)."""
    tile = tl.program_id(0) * BLOCK_T + tl.arange(0, BLOCK_T)
    group = tl.zeros([BLOCK_T], tl.int32)
    group_start = tl.zeros([BLOCK_T], tl.int32)
    seen = tl.zeros([], tl.int32)
    for g0 in range(0, G, BLOCK_G):
        g = g0 + tl.arange(0, BLOCK_G)
        begin = tl.load(Offsets_ptr + g, mask=g < G, other=0)
        end = tl.load(Offsets_ptr + g + 1, mask=g < G, other=0)
        n = ((end - begin + ROWS - 1) // ROWS).to(tl.int32)
        stop = seen + tl.cumsum(n, axis=0)
        if tl.program_id(0) == 0:
            tl.store(GroupTile_ptr + g, stop - n, mask=g < G)
        passed = (stop[None, :] <= tile[:, None]) & (g < G)[None, :]
        group += tl.sum(passed.to(tl.int32), axis=1)
        group_start = tl.maximum(group_start, tl.max(tl.where(passed, stop[None, :], 0), axis=1))
        seen += tl.sum(n, axis=0)
    real = tile < seen
    begin = tl.load(Offsets_ptr + group, mask=real, other=0)
    tl.store(TileGroup_ptr + tile, tl.where(real, group, -1), mask=tile < T)
    tl.store(TileRow_ptr + tile, begin + (tile - group_start).to(tl.int64) * ROWS, mask=tile < T)


def tile_map(offsets: Tensor, n_rows: int, rows: int) -> TileMap:
    """Cut every group into tiles of ``rows`` rows.

    The number of tiles depends on values that only the device knows, so the grid is its upper bound, N // rows + G.
    """
    n_groups = len(offsets) - 1
    n_tiles = n_rows // rows + n_groups
    group = torch.empty(n_tiles, dtype=torch.int32, device=offsets.device)
    first_row = torch.empty(n_tiles, dtype=torch.int64, device=offsets.device)
    first_tile = torch.empty(n_groups, dtype=torch.int32, device=offsets.device)
    _tile_map_kernel[(triton.cdiv(n_tiles, tiles.MAP_TILES),)](
        offsets,
        group,
        first_row,
        first_tile,
        n_groups,
        n_tiles,
        ROWS=rows,
        BLOCK_G=tiles.MAP_GROUPS,
        BLOCK_T=tiles.MAP_TILES,
        **compile_options(4),
    )
    return TileMap(group, first_row, first_tile)


class TileMaps:
    """The tile maps of some groups by the rows of a tile, each made when first asked for."""

    def __init__(self, offsets: Tensor, n_rows: int) -> None:
        self._offsets, self._n_rows = offsets, n_rows
        self._made: dict[int, TileMap] = {}

    def of(self, rows: int) -> TileMap:
        """Tiles of at most this many rows."""
        if rows not in self._made:
            self._made[rows] = tile_map(self._offsets, self._n_rows, rows)
        return self._made[rows]


class CentredCentroids(NamedTuple):
    """Centroids relative to the mean of their group's live ones, in the dtype of the operands of products."""

    centroids: Tensor
    """(G, K, D) float32, rounded to tf32, or bfloat16; zero where dead."""
    norms: Tensor
    """(G, K) float32, squared norms of the values stored above, or at fp32 before these were rounded; infinite where
    dead."""
    mean: Tensor
    """(G, D) float32"""


@triton.jit
def round_operand(x, ROUND: tl.constexpr):
    """The nearest value that tensor cores represent. They truncate by themselves, which would shrink every operand."""
    if ROUND == "bf16":
        x = x.to(tl.bfloat16)
    if ROUND == "tf32":
        x = ((x.to(tl.int32, bitcast=True) + 0x1000) & -0x2000).to(tl.float32, bitcast=True)
    return x


@triton.jit(do_not_specialize=["R"])
def _live_centroids_kernel(C_ptr, Live_ptr, R, D, BLOCK_R: tl.constexpr, BLOCK_D: tl.constexpr):
    """live = every value of the row is finite, for the R = G*K rows."""
    row = tl.program_id(0).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)
    bad = tl.zeros([BLOCK_R, BLOCK_D], tl.int32)
    for d0 in range(0, D, BLOCK_D):
        d = d0 + tl.arange(0, BLOCK_D)
        mask = (row < R)[:, None] & (d < D)[None, :]
        c = tl.load(C_ptr + row[:, None] * D + d[None, :], mask=mask, other=0.0)
        bad += tl.where(tl.abs(c) < float("inf"), 0, 1)
    tl.store(Live_ptr + row, (tl.sum(bad, axis=1) == 0).to(tl.int8), mask=row < R)


@triton.jit
def _all_live(Live_ptr, row, mask, P, BLOCK_P: tl.constexpr):
    """Rows of the mask whose P parts are all live."""
    p = tl.arange(0, BLOCK_P)
    of_row = mask[:, None] & (p < P)[None, :]
    dead = tl.load(Live_ptr + row[:, None] * P + p[None, :], mask=of_row, other=1) == 0
    return mask & (tl.sum(dead.to(tl.int32), axis=1) == 0)


@triton.jit
def _mean_centroid_kernel(
    C_ptr, Live_ptr, Mean_ptr, K, D, P, BLOCK_K: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_P: tl.constexpr
):
    """m_g = sum of live c_gk / number of live c_gk."""
    group = tl.program_id(0).to(tl.int64)
    d = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    total = tl.zeros([BLOCK_K, BLOCK_D], tl.float32)
    n_live = tl.zeros([BLOCK_K], tl.int32)
    for k0 in range(0, K, BLOCK_K):
        k = k0 + tl.arange(0, BLOCK_K)
        live = _all_live(Live_ptr, group * K + k, k < K, P, BLOCK_P)
        c_ptrs = C_ptr + group * K * D + k[:, None] * D + d[None, :]
        total += tl.load(c_ptrs, mask=live[:, None] & (d < D)[None, :], other=0.0)
        n_live += live.to(tl.int32)
    mean = tl.sum(total, axis=0) / tl.maximum(tl.sum(n_live, axis=0), 1)
    tl.store(Mean_ptr + group * D + d, mean, mask=d < D)


@triton.jit(do_not_specialize=["R"])
def _centre_centroids_kernel(
    C_ptr,
    Live_ptr,
    Mean_ptr,
    Centred_ptr,
    Norm_ptr,
    R,
    K,
    D,
    P,
    ROUND: tl.constexpr,
    NORM_OF_ROUNDED: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    """c'_gk = round(c_gk - m_g), norm = |c'_gk|^2; a dead centroid is 0 with norm infinity, so it never wins."""
    row = tl.program_id(0).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)
    group = row // K
    live = _all_live(Live_ptr, row, row < R, P, BLOCK_P)
    squares = tl.zeros([BLOCK_R, BLOCK_D], tl.float32)
    for d0 in range(0, D, BLOCK_D):
        d = d0 + tl.arange(0, BLOCK_D)
        inside = (row < R)[:, None] & (d < D)[None, :]
        mask = inside & live[:, None]
        c = tl.load(C_ptr + row[:, None] * D + d[None, :], mask=mask, other=0.0)
        mean = tl.load(Mean_ptr + group[:, None] * D + d[None, :], mask=mask, other=0.0)
        centred = c - mean
        rounded = round_operand(centred, ROUND)
        tl.store(Centred_ptr + row[:, None] * D + d[None, :], rounded, mask=inside)
        if NORM_OF_ROUNDED:
            centred = rounded.to(tl.float32)
        squares += centred * centred
    tl.store(Norm_ptr + row, tl.where(live, tl.sum(squares, axis=1), float("inf")), mask=row < R)


def live_centroids(centroids: Tensor) -> Tensor:
    """(G, K, 1) int8, 1 where every value of a centroid is finite."""
    n_groups, n_clusters, n_features = centroids.shape
    live = torch.empty((n_groups, n_clusters, 1), dtype=torch.int8, device=centroids.device)
    n_rows = n_groups * n_clusters
    tile = tiles.sweep_tile(n_features)
    _live_centroids_kernel[(triton.cdiv(n_rows, tile.rows),)](
        centroids, live, n_rows, n_features, BLOCK_R=tile.rows, BLOCK_D=tile.features, **compile_options(tile.warps)
    )
    return live


def centre_centroids(centroids: Tensor, precision: str, live: Tensor | None = None) -> CentredCentroids:
    """Move every group's live centroids to their mean.

    Subtracting one vector from rows and centroids changes no distance, and keeps |c|^2 - 2 x.c from cancelling where
    data are far from the origin.

    Args:
        centroids: (G, K, D) float32.
        precision: of the products.
        live: (G, K, P) int8: a centroid is live where all of its parts are. Default: they are looked for.
    """
    n_groups, n_clusters, n_features = centroids.shape
    device = centroids.device
    if live is None:
        live = live_centroids(centroids)
    # The interpreter multiplies bfloat16 bit patterns as integers; rounded values in float32 give the same products.
    operand = torch.bfloat16 if precision == "bf16" and not interpreted() else torch.float32
    mean = torch.empty((n_groups, n_features), dtype=torch.float32, device=device)
    centred = torch.empty(centroids.shape, dtype=operand, device=device)
    norms = torch.empty((n_groups, n_clusters), dtype=torch.float32, device=device)
    n_rows, n_parts = n_groups * n_clusters, live.shape[2]
    tile = tiles.sweep_tile(n_features)
    _mean_centroid_kernel[(n_groups, triton.cdiv(n_features, tile.features))](
        centroids,
        live,
        mean,
        n_clusters,
        n_features,
        n_parts,
        BLOCK_K=tile.rows,
        BLOCK_D=tile.features,
        BLOCK_P=triton.next_power_of_2(n_parts),
        **compile_options(tile.warps),
    )
    _centre_centroids_kernel[(triton.cdiv(n_rows, tile.rows),)](
        centroids,
        live,
        mean,
        centred,
        norms,
        n_rows,
        n_clusters,
        n_features,
        n_parts,
        ROUND="tf32" if precision == "fp32" else precision,
        NORM_OF_ROUNDED=precision != "fp32",
        BLOCK_R=tile.rows,
        BLOCK_D=tile.features,
        BLOCK_P=triton.next_power_of_2(n_parts),
        **compile_options(tile.warps),
    )
    return CentredCentroids(centred, norms, mean)
