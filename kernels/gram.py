"""Products of the rows of every group, and assignment from such products."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import tiles
from .common import compile_options, dense, on_device_of
from .prepare import tile_map


@triton.jit
def _tf32_part(x):
    """x with the bits that tf32 has, so that the rest is exact in float32."""
    return (x.to(tl.uint32, bitcast=True) & 0xFFFFE000).to(tl.float32, bitcast=True)


@triton.jit
def _group_products_kernel(
    A_ptr,  # IN  (R, D) float32
    AOffsets_ptr,  # IN  (G+1,) int64
    X_ptr,  # IN  (N, D) float32
    Offsets_ptr,  # IN  (G+1,) int64
    Mean_ptr,  # IN  (G, D) float32
    TileGroup_ptr,
    TileRow_ptr,
    Out_ptr,  # OUT (R, W) float32
    D,
    W,
    BLOCK_R: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """out[r, i] = <a_r - m_g, x_i - m_g>; 0 from the number of the group's rows on."""
    group = tl.load(TileGroup_ptr + tl.program_id(0)).to(tl.int64)
    if group < 0:
        return
    a_end = tl.load(AOffsets_ptr + group + 1)
    begin = tl.load(Offsets_ptr + group)
    n = (tl.load(Offsets_ptr + group + 1) - begin).to(tl.int32)
    row = tl.load(TileRow_ptr + tl.program_id(0)) + tl.arange(0, BLOCK_R)
    column = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    product = tl.zeros([BLOCK_R, BLOCK_N], tl.float32)
    if tl.program_id(1) * BLOCK_N < n:
        # Rows past the end repeat the last one, so loads need no row mask.
        a_ptrs = A_ptr + tl.minimum(row, a_end - 1) * D
        x_ptrs = X_ptr + (begin + tl.minimum(column, n - 1)) * D
        for d0 in range(0, D, BLOCK_D):
            d = d0 + tl.arange(0, BLOCK_D)
            mean = tl.load(Mean_ptr + group * D + d, mask=d < D, other=0.0)
            a = tl.load(a_ptrs[:, None] + d[None, :], mask=(d < D)[None, :], other=0.0) - mean[None, :]
            x = tl.load(x_ptrs[None, :] + d[:, None], mask=(d < D)[:, None], other=0.0) - mean[:, None]
            a_high, x_high = _tf32_part(a), _tf32_part(x)
            # Each of the first two is the other one of the transposed entry, so that symmetric products are symmetric.
            # Differences, because Triton would let a sum of products run on in one accumulator.
            cross = tl.dot(a_high, x - x_high, input_precision="tf32")
            cross = cross - tl.dot(a_high - a, x_high, input_precision="tf32")
            product += cross - tl.dot(-a_high, x_high, input_precision="tf32")
    product = tl.where((column < n)[None, :], product, 0.0)
    mask = (row < a_end)[:, None] & (column < W)[None, :]
    tl.store(Out_ptr + row[:, None] * W + column[None, :], product, mask=mask)


def group_products(a: Tensor, a_offsets: Tensor, x: Tensor, offsets: Tensor, centre: Tensor, width: int) -> Tensor:
    """Products of the rows ``a`` of every group with its rows ``x``, relative to ``centre``, as three tf32 products.

    Args:
        a: (R, D) float32.
        a_offsets: (G+1,) int64.
        x: (N, D) float32.
        offsets: (G+1,) int64.
        centre: (G, D) float32.
        width: columns of the result, at least the rows of any group in ``x``.

    Returns:
        (R, width) float32; 0 beyond the rows of the group.
    """
    a, a_offsets, x, offsets, centre = dense(a), dense(a_offsets), dense(x), dense(offsets), dense(centre)
    out = torch.empty((len(a), width), dtype=torch.float32, device=a.device)
    if len(offsets) < 2 or len(a) == 0:
        return out
    tile = tiles.PRODUCT
    with on_device_of(a):
        tiling = tile_map(a_offsets, len(a), tile.rows)
        _group_products_kernel[(len(tiling.group), triton.cdiv(width, tile.clusters))](
            a,
            a_offsets,
            x,
            offsets,
            centre,
            tiling.group,
            tiling.first_row,
            out,
            x.shape[1],
            width,
            BLOCK_R=tile.rows,
            BLOCK_N=tile.clusters,
            BLOCK_D=tile.features,
            **compile_options(tile.warps),
            num_stages=tile.stages,
        )
    return out


@triton.jit
def _gram_assign_kernel(
    Products_ptr,  # IN  (G, K, W) float32
    Norm_ptr,  # IN  (G, K) float32
    Offsets_ptr,  # IN  (G+1,) int64
    TileGroup_ptr,
    TileRow_ptr,
    Active_ptr,  # IN  (G,) bool
    OldLabels_ptr,  # IN  (N,) int32
    Labels_ptr,  # OUT (N,) int32
    K,
    W,
    BLOCK_N: tl.constexpr,
):
    """label_i = argmin_k norm_k - 2 product_ki, one cluster after another, so that every product is read once."""
    group = tl.load(TileGroup_ptr + tl.program_id(0)).to(tl.int64)
    if group < 0:
        return
    begin = tl.load(Offsets_ptr + group)
    row = tl.load(TileRow_ptr + tl.program_id(0)) + tl.arange(0, BLOCK_N)
    inside = row < tl.load(Offsets_ptr + group + 1)
    if tl.load(Active_ptr + group) == 0:
        tl.store(Labels_ptr + row, tl.load(OldLabels_ptr + row, mask=inside), mask=inside)
        return
    best = tl.full([BLOCK_N], float("inf"), tl.float32)
    label = tl.zeros([BLOCK_N], tl.int32)
    for k in range(0, K):
        product = tl.load(Products_ptr + (group * K + k) * W + (row - begin), mask=inside, other=0.0)
        # NaN is never less, so a dead centroid is never chosen.
        score = tl.load(Norm_ptr + group * K + k) - 2.0 * product
        label = tl.where(score < best, k, label)
        best = tl.where(score < best, score, best)
    tl.store(Labels_ptr + row, label, mask=inside)


def gram_assign(products: Tensor, norms: Tensor, offsets: Tensor, active: Tensor, labels: Tensor) -> Tensor:
    """Label every row with the nearest live centroid of its group.

    Args:
        products: (G, K, W) float32 of centroids with rows.
        norms: (G, K) float32, squared norms of the centroids.
        offsets: (G+1,) int64.
        active: (G,) bool; rows of inactive groups keep ``labels``.
        labels: (N,) int32.

    Returns:
        (N,) int32.
    """
    products, norms, offsets = dense(products), dense(norms), dense(offsets)
    active, labels = dense(active), dense(labels)
    found = torch.empty(labels.shape, dtype=torch.int32, device=labels.device)
    _, n_clusters, width = products.shape
    if len(offsets) < 2:
        return found
    with on_device_of(products):
        tiling = tile_map(offsets, len(labels), tiles.GRAM_ROWS)
        _gram_assign_kernel[(len(tiling.group),)](
            products,
            norms,
            offsets,
            tiling.group,
            tiling.first_row,
            active,
            labels,
            found,
            n_clusters,
            width,
            BLOCK_N=tiles.GRAM_ROWS,
            **compile_options(4),
        )
    return found
