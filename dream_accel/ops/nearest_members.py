"""Selection of the rows nearest each centroid, as representatives of its cluster."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import DreamAccelError
from .checks import check_centroids, check_device, check_rows, check_shape
from .registration import operator


def _check(x: Tensor, offsets: Tensor, centroids: Tensor, labels: Tensor, n: int) -> None:
    check_rows(x, offsets)
    check_centroids(x, offsets, centroids)
    check_shape("labels", labels, (len(x),), torch.int32)
    check_device("x", x, labels=labels)
    if n < 1:
        raise DreamAccelError(f"n is {n}: at least 1 member per cluster must be picked")


def _outputs(x: Tensor, centroids: Tensor, n: int) -> Tensor:
    return x.new_empty((*centroids.shape[:2], n), dtype=torch.int64)


@operator(check=_check, outputs=_outputs)
def nearest_members(x: Tensor, offsets: Tensor, centroids: Tensor, labels: Tensor, n: int) -> Tensor:
    """Pick the ``n`` members nearest each centroid, all distinct.

    Members of a cluster are ranked by (squared distance to its centroid, row). A cluster with fewer than ``n`` members
    leaves slots free; in slot order they are filled with the unpicked rows of the group, ranked by (squared distance to
    their own centroid, row). No row is picked twice, and every slot is filled whenever the group has ``K * n`` rows.

    Args:
        x: (N, D) float32, float16 or bfloat16; the rows of all groups one after another.
        offsets: (G+1,) int64; where each group begins and where the last one ends.
        centroids: (G, K, D) float32.
        labels: (N,) int32 within the group.
        n: picks per cluster, at least 1.

    Returns:
        (G, K, n) int64 row indices into ``x``, nearest first; -1 where a group has too few rows.

    Raises:
        DreamAccelError: shapes, dtypes or devices do not fit.
    """
