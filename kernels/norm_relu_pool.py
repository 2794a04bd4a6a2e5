"""Instance norm, ReLU and 2x2 average pooling of feature maps, and two derivatives: each a pass over the maps.

A program has whole maps and reads each two or three times, from memory only the first time. It goes through the 2x2
windows, and then through the pixels of an odd last row or column, which count in the norm and in no window.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import tiles
from .common import compile_options, dense, on_device_of
from .feature_maps import by_normed, constants_of, edge, edge_pixels, map_mean, windows


@triton.jit
def _norm_relu_pool_kernel(
    Y_ptr,  # IN  (M, H, W)
    Weight_ptr,  # IN  (C,)
    Bias_ptr,  # IN  (C,)
    Pooled_ptr,  # OUT (M, H // 2, W // 2)
    Mean_ptr,  # OUT (M,)
    Rstd_ptr,  # OUT (M,)
    M,
    C,
    H,
    W,
    n_windows,  # (H // 2) * (W // 2)
    eps,
    BLOCK_M: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    """pooled = mean of each window of relu(weight x + bias), x = (y - mean) rstd."""
    own = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    there = own < M
    first = own.to(tl.int64)[:, None] * H * W
    total = tl.zeros([BLOCK_M, BLOCK_P], tl.float32)
    for p0 in range(0, n_windows, BLOCK_P):
        at, inside = windows(p0 + tl.arange(0, BLOCK_P), H, W)
        mask = there[:, None] & inside[None, :]
        for c in tl.static_range(4):
            total += tl.load(Y_ptr + first + at[None, :] + (c // 2) * W + c % 2, mask=mask, other=0.0)
    for e0 in range(0, edge_pixels(H, W), BLOCK_P):
        at, inside = edge(e0 + tl.arange(0, BLOCK_P), H, W)
        total += tl.load(Y_ptr + first + at[None, :], mask=there[:, None] & inside[None, :], other=0.0)
    mean = tl.sum(total, axis=1) / (H * W)

    squares = tl.zeros([BLOCK_M, BLOCK_P], tl.float32)
    for p0 in range(0, n_windows, BLOCK_P):
        at, inside = windows(p0 + tl.arange(0, BLOCK_P), H, W)
        mask = there[:, None] & inside[None, :]
        for c in tl.static_range(4):
            y = tl.load(Y_ptr + first + at[None, :] + (c // 2) * W + c % 2, mask=mask, other=0.0)
            squares += tl.where(mask, (y - mean[:, None]) * (y - mean[:, None]), 0.0)
    for e0 in range(0, edge_pixels(H, W), BLOCK_P):
        at, inside = edge(e0 + tl.arange(0, BLOCK_P), H, W)
        mask = there[:, None] & inside[None, :]
        y = tl.load(Y_ptr + first + at[None, :], mask=mask, other=0.0)
        squares += tl.where(mask, (y - mean[:, None]) * (y - mean[:, None]), 0.0)
    rstd = tl.div_rn(tl.full([BLOCK_M], 1.0, tl.float32), tl.sqrt_rn(tl.sum(squares, axis=1) / (H * W) + eps))
    tl.store(Mean_ptr + own, mean, mask=there)
    tl.store(Rstd_ptr + own, rstd, mask=there)

    weight = tl.load(Weight_ptr + own % C, mask=there, other=0.0)
    bias = tl.load(Bias_ptr + own % C, mask=there, other=0.0)
    for p0 in range(0, n_windows, BLOCK_P):
        p = p0 + tl.arange(0, BLOCK_P)
        at, inside = windows(p, H, W)
        mask = there[:, None] & inside[None, :]
        pooled = tl.zeros([BLOCK_M, BLOCK_P], tl.float32)
        for c in tl.static_range(4):
            y = tl.load(Y_ptr + first + at[None, :] + (c // 2) * W + c % 2, mask=mask, other=0.0)
            normed = weight[:, None] * ((y - mean[:, None]) * rstd[:, None]) + bias[:, None]
            # Not a maximum, which may drop NaN.
            pooled += tl.where(normed <= 0, 0.0, normed)
        tl.store(Pooled_ptr + own.to(tl.int64)[:, None] * n_windows + p[None, :], pooled * 0.25, mask=mask)


@triton.jit
def _norm_relu_pool_backward_kernel(
    Y_ptr,  # IN  (M, H, W)
    Weight_ptr,  # IN  (C,)
    Bias_ptr,  # IN  (C,)
    Mean_ptr,  # IN  (M,)
    Rstd_ptr,  # IN  (M,)
    OfPooled_ptr,  # IN  (M, H // 2, W // 2)
    OfY_ptr,  # OUT (M, H, W)
    M,
    C,
    H,
    W,
    n_windows,  # (H // 2) * (W // 2)
    BLOCK_M: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    """of_y = rstd (e - <e> - x <e x>), e the derivative by the normed maps, <.> the mean of a map."""
    own = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    there = own < M
    first = own.to(tl.int64)[:, None] * H * W
    mean, rstd, weight, bias = constants_of(own, there, Mean_ptr, Rstd_ptr, Weight_ptr, Bias_ptr, C)
    sum_e = tl.zeros([BLOCK_M, BLOCK_P], tl.float32)
    sum_ex = tl.zeros([BLOCK_M, BLOCK_P], tl.float32)
    for p0 in range(0, n_windows, BLOCK_P):
        p = p0 + tl.arange(0, BLOCK_P)
        at, inside = windows(p, H, W)
        mask = there[:, None] & inside[None, :]
        g = tl.load(OfPooled_ptr + own.to(tl.int64)[:, None] * n_windows + p[None, :], mask=mask, other=0.0)
        for c in tl.static_range(4):
            y = tl.load(Y_ptr + first + at[None, :] + (c // 2) * W + c % 2, mask=mask, other=0.0)
            x = (y - mean) * rstd
            e = by_normed(x, g, weight, bias)
            sum_e += e
            sum_ex += e * x
    mean_e = map_mean(sum_e, H, W)
    mean_ex = map_mean(sum_ex, H, W)
    for p0 in range(0, n_windows, BLOCK_P):
        p = p0 + tl.arange(0, BLOCK_P)
        at, inside = windows(p, H, W)
        mask = there[:, None] & inside[None, :]
        g = tl.load(OfPooled_ptr + own.to(tl.int64)[:, None] * n_windows + p[None, :], mask=mask, other=0.0)
        for c in tl.static_range(4):
            pixel = at[None, :] + (c // 2) * W + c % 2
            x = (tl.load(Y_ptr + first + pixel, mask=mask, other=0.0) - mean) * rstd
            e = by_normed(x, g, weight, bias)
            tl.store(OfY_ptr + first + pixel, rstd * (e - mean_e - x * mean_ex), mask=mask)
    for e0 in range(0, edge_pixels(H, W), BLOCK_P):
        at, inside = edge(e0 + tl.arange(0, BLOCK_P), H, W)
        mask = there[:, None] & inside[None, :]
        x = (tl.load(Y_ptr + first + at[None, :], mask=mask, other=0.0) - mean) * rstd
        tl.store(OfY_ptr + first + at[None, :], rstd * (-mean_e - x * mean_ex), mask=mask)


@triton.jit
def _norm_relu_pool_double_backward_kernel(
    Y_ptr,  # IN  (M, H, W)
    Weight_ptr,  # IN  (C,)
    Bias_ptr,  # IN  (C,)
    Mean_ptr,  # IN  (M,)
    Rstd_ptr,  # IN  (M,)
    OfPooled_ptr,  # IN  (M, H // 2, W // 2)
    T_ptr,  # IN  (M, H, W)
    ByPooled_ptr,  # OUT (M, H // 2, W // 2)
    ByY_ptr,  # OUT (M, H, W)
    M,
    C,
    H,
    W,
    n_windows,  # (H // 2) * (W // 2)
    BLOCK_M: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    """With J u = rstd (u - <u> - x <x u>) and s = rstd^2 (<e t> - <e> <t> - <e x> <t x>)::

    by_pooled = mean of each window of weight [weight x + bias > 0] J t
    by_y = -s x - rstd (<t x> J e + <e x> J t)
    """
    own = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    there = own < M
    first = own.to(tl.int64)[:, None] * H * W
    mean, rstd, weight, bias = constants_of(own, there, Mean_ptr, Rstd_ptr, Weight_ptr, Bias_ptr, C)
    sum_e = tl.zeros([BLOCK_M, BLOCK_P], tl.float32)
    sum_ex = tl.zeros([BLOCK_M, BLOCK_P], tl.float32)
    sum_t = tl.zeros([BLOCK_M, BLOCK_P], tl.float32)
    sum_tx = tl.zeros([BLOCK_M, BLOCK_P], tl.float32)
    sum_et = tl.zeros([BLOCK_M, BLOCK_P], tl.float32)
    for p0 in range(0, n_windows, BLOCK_P):
        p = p0 + tl.arange(0, BLOCK_P)
        at, inside = windows(p, H, W)
        mask = there[:, None] & inside[None, :]
        g = tl.load(OfPooled_ptr + own.to(tl.int64)[:, None] * n_windows + p[None, :], mask=mask, other=0.0)
        for c in tl.static_range(4):
            pixel = at[None, :] + (c // 2) * W + c % 2
            x = (tl.load(Y_ptr + first + pixel, mask=mask, other=0.0) - mean) * rstd
            t = tl.load(T_ptr + first + pixel, mask=mask, other=0.0)
            e = by_normed(x, g, weight, bias)
            sum_e += e
            sum_ex += e * x
            sum_t += t
            sum_tx += t * x
            sum_et += e * t
    for e0 in range(0, edge_pixels(H, W), BLOCK_P):
        at, inside = edge(e0 + tl.arange(0, BLOCK_P), H, W)
        mask = there[:, None] & inside[None, :]
        x = (tl.load(Y_ptr + first + at[None, :], mask=mask, other=0.0) - mean) * rstd
        t = tl.load(T_ptr + first + at[None, :], mask=mask, other=0.0)
        sum_t += t
        sum_tx += t * x
    mean_e = map_mean(sum_e, H, W)
    mean_ex = map_mean(sum_ex, H, W)
    mean_t = map_mean(sum_t, H, W)
    mean_tx = map_mean(sum_tx, H, W)
    mean_et = map_mean(sum_et, H, W)
    along_x = rstd * rstd * (mean_et - mean_e * mean_t - mean_ex * mean_tx)
    for p0 in range(0, n_windows, BLOCK_P):
        p = p0 + tl.arange(0, BLOCK_P)
        at, inside = windows(p, H, W)
        mask = there[:, None] & inside[None, :]
        pooled = own.to(tl.int64)[:, None] * n_windows + p[None, :]
        g = tl.load(OfPooled_ptr + pooled, mask=mask, other=0.0)
        by_pooled = tl.zeros([BLOCK_M, BLOCK_P], tl.float32)
        for c in tl.static_range(4):
            pixel = at[None, :] + (c // 2) * W + c % 2
            x = (tl.load(Y_ptr + first + pixel, mask=mask, other=0.0) - mean) * rstd
            t = tl.load(T_ptr + first + pixel, mask=mask, other=0.0)
            e = by_normed(x, g, weight, bias)
            of_e = rstd * (e - mean_e - x * mean_ex)
            of_t = rstd * (t - mean_t - x * mean_tx)
            by_pooled += tl.where(weight * x + bias > 0, weight * of_t, 0.0)
            tl.store(ByY_ptr + first + pixel, -along_x * x - rstd * (mean_tx * of_e + mean_ex * of_t), mask=mask)
        tl.store(ByPooled_ptr + pooled, by_pooled * 0.25, mask=mask)
    for e0 in range(0, edge_pixels(H, W), BLOCK_P):
        at, inside = edge(e0 + tl.arange(0, BLOCK_P), H, W)
        mask = there[:, None] & inside[None, :]
        x = (tl.load(Y_ptr + first + at[None, :], mask=mask, other=0.0) - mean) * rstd
        t = tl.load(T_ptr + first + at[None, :], mask=mask, other=0.0)
        of_e = rstd * (-mean_e - x * mean_ex)
        of_t = rstd * (t - mean_t - x * mean_tx)
        by_y = -along_x * x - rstd * (mean_tx * of_e + mean_ex * of_t)
        tl.store(ByY_ptr + first + at[None, :], by_y, mask=mask)


def norm_relu_pool(y: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """Normalise every map, set what is negative to 0, and average windows of 2x2 pixels.

    Args:
        y: (N, C, H, W) float32, H and W at least 2.
        weight: (C,) float32.
        bias: (C,) float32.
        eps: added to the variance.

    Returns:
        pooled maps (N, C, H // 2, W // 2), and mean and rstd of every map, (N, C).
    """
    y = dense(y)
    pooled = y.new_empty(*y.shape[:2], y.shape[2] // 2, y.shape[3] // 2)
    mean, rstd = y.new_empty(y.shape[:2]), y.new_empty(y.shape[:2])
    _launch(_norm_relu_pool_kernel, y, y, dense(weight), dense(bias), pooled, mean, rstd, scalars=(eps,))
    return pooled, mean, rstd


def norm_relu_pool_backward(
    y: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, rstd: Tensor, of_pooled: Tensor
) -> Tensor:
    """Differentiate by ``y``.

    Args:
        y, weight, bias: as in :func:`norm_relu_pool`.
        mean, rstd: its results.
        of_pooled: (N, C, H // 2, W // 2).

    Returns:
        (N, C, H, W), contiguous.
    """
    y = dense(y)
    of_y = torch.empty_like(y)
    inputs = map(dense, (weight, bias, mean, rstd, of_pooled))
    _launch(_norm_relu_pool_backward_kernel, y, y, *inputs, of_y)
    return of_y


def norm_relu_pool_double_backward(
    y: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, rstd: Tensor, of_pooled: Tensor, of_of_y: Tensor
) -> tuple[Tensor, Tensor]:
    """Differentiate ``sum(of_of_y * norm_relu_pool_backward(...))`` by ``of_pooled`` and ``y``, shaped like these."""
    y = dense(y)
    by_pooled, by_y = torch.empty_like(dense(of_pooled)), torch.empty_like(y)
    inputs = map(dense, (weight, bias, mean, rstd, of_pooled, of_of_y))
    _launch(_norm_relu_pool_double_backward_kernel, y, y, *inputs, by_pooled, by_y)
    return by_pooled, by_y


def _launch(kernel: triton.JITFunction, y: Tensor, *tensors: Tensor, scalars: tuple[float, ...] = ()) -> None:
    n, n_channels, height, width = y.shape
    if y.numel() == 0:
        return
    tile = tiles.map_tile(height, width)
    with on_device_of(y):
        kernel[(triton.cdiv(n * n_channels, tile.maps),)](
            *tensors,
            n * n_channels,
            n_channels,
            height,
            width,
            (height // 2) * (width // 2),
            *scalars,
            BLOCK_M=tile.maps,
            BLOCK_P=tile.windows,
            **compile_options(tile.warps),
        )
