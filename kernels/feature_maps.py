"""Parts of the kernels of feature maps: 2x2 windows, the pixels that are in none, and values of whole maps."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def windows(p, H, W):
    """Offset of the first pixel of each window, and which windows exist."""
    across = W // 2
    return (p // across) * 2 * W + (p % across) * 2, p < (H // 2) * across


@triton.jit
def edge(e, H, W):
    """Offset of each pixel that is in no window, and which of them exist."""
    bottom = (H % 2) * W
    right = (e - bottom) * W + W - 1
    return tl.where(e < bottom, (H - 1) * W + e, right), e < bottom + (W % 2) * (H - H % 2)


@triton.jit
def edge_pixels(H, W):
    """Pixels of a map that are in no window."""
    return (H % 2) * W + (W % 2) * (H - H % 2)


@triton.jit
def constants_of(own, there, Mean_ptr, Rstd_ptr, Weight_ptr, Bias_ptr, C):
    """Moments of the maps and the affine pairs of their channels, (BLOCK_M, 1) each."""
    mean = tl.load(Mean_ptr + own, mask=there, other=0.0)
    rstd = tl.load(Rstd_ptr + own, mask=there, other=0.0)
    weight = tl.load(Weight_ptr + own % C, mask=there, other=0.0)
    bias = tl.load(Bias_ptr + own % C, mask=there, other=0.0)
    return mean[:, None], rstd[:, None], weight[:, None], bias[:, None]


@triton.jit
def by_normed(x, of_pooled, weight, bias):
    """The derivative by a normed pixel from that by its window."""
    return tl.where(weight * x + bias > 0, weight * (of_pooled * 0.25), 0.0)


@triton.jit
def map_mean(total, H, W):
    """Means of the maps from sums over a part of each, (BLOCK_M, 1)."""
    return (tl.sum(total, axis=1) / (H * W))[:, None]
