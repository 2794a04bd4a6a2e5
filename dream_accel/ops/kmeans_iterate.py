"""Lloyd's iteration of every group, as one operator."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import DreamAccelError
from .checks import check_centroids, check_choice, check_device, check_rows, check_shape, result_dtype
from .kmeans_assign import PRECISIONS
from .kmeans_update import EMPTY_POLICIES
from .registration import operator


def _check(
    x: Tensor, offsets: Tensor, centroids: Tensor, max_iter: int, tolerance: Tensor | None, precision: str, empty: str
) -> None:
    check_rows(x, offsets)
    check_centroids(x, offsets, centroids)
    if max_iter < 0:
        raise DreamAccelError(f"max_iter is {max_iter}: it must not be negative")
    check_shape("tolerance", tolerance, (len(offsets) - 1,), result_dtype(x))
    check_choice("precision", precision, PRECISIONS)
    check_choice("empty-cluster policy", empty, EMPTY_POLICIES)
    check_device("x", x, tolerance=tolerance)


def _outputs(x: Tensor, offsets: Tensor, centroids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    labels = x.new_empty(x.shape[0], dtype=torch.int32)
    n_iter = x.new_empty(offsets.shape[0] - 1, dtype=torch.int32)
    return labels, torch.empty_like(centroids, dtype=result_dtype(x)), n_iter


@operator(check=_check, outputs=_outputs)
def kmeans_iterate(
    x: Tensor,
    offsets: Tensor,
    centroids: Tensor,
    max_iter: int,
    *,
    tolerance: Tensor | None = None,
    precision: str = "fp32",
    empty: str = "farthest",
) -> tuple[Tensor, Tensor, Tensor]:
    """Assign and update in turn, every group until its labels no longer change: Lloyd (1982).

    Args:
        x: (N, D) float32, float16 or bfloat16; the rows of all groups one after another.
        offsets: (G+1,) int64; where each group begins and where the last one ends.
        centroids: (G, K, D) float32, where the iteration starts.
        max_iter: updates at most, at least 0.
        tolerance: (G,) float32; a group also stops once the squared shift of all its centroids is at most this.
        precision: of the products that decide labels while iterating: ``"fp32"``, ``"tf32"`` or ``"bf16"``. CPUs always
            use fp32.
        empty: policy for empty clusters, ``"farthest"`` or ``"keep"``; see :func:`kmeans_update`.

    Returns:
        labels (N,) int32 at fp32, the centroids (G, K, D) float32 they are nearest to, and how many updates every group
        did, (G,) int32.

    Raises:
        DreamAccelError: shapes, dtypes or devices do not fit.
    """
