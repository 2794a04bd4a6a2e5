"""Distances from every row to all centroids of its own group, for results that are that large."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from ..ops.checks import check_centroids, check_rows, result_dtype

CHUNK_ROWS = 1 << 16
"""Rows in half precision are converted so many at a time."""


def distances_to_centroids(x: Tensor, offsets: Tensor, centroids: Tensor) -> Tensor:
    """(N, K) Euclidean distances ``|x_i - c_gk|`` of every row to the centroids of its group, infinity to dead ones.

    Differences are formed before they are squared, so a distance keeps its accuracy however small it is, and has the
    same bits in any batch. Reads the offsets, which waits for the device.

    Args:
        x: (N, D) float32, float16, bfloat16 or float64.
        offsets: (G+1,) int64.
        centroids: (G, K, D) float32, float64 beside float64 rows; dead where not finite.

    Raises:
        DreamAccelError: shapes, dtypes or devices do not fit.
    """
    check_rows(x, offsets)
    check_centroids(x, offsets, centroids)
    out = torch.empty((len(x), centroids.shape[1]), dtype=result_dtype(x), device=x.device)
    for group, (start, stop) in enumerate(pairwise(offsets.tolist())):
        for first in range(start, stop, CHUNK_ROWS):
            rows = slice(first, min(first + CHUNK_ROWS, stop))
            chunk = x[rows].to(out.dtype)
            out[rows] = torch.cdist(chunk, centroids[group], compute_mode="donot_use_mm_for_euclid_dist")
        dead = ~centroids[group].isfinite().all(dim=1)
        out[start:stop].masked_fill_(dead, torch.inf)
    return out
