"""The 2x2 windows of a feature map, and the pixels that are in none."""

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
