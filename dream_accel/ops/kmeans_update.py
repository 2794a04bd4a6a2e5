"""Means of the members of every cluster."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import DreamAccelError
from .checks import check_choice, check_device, check_rows, check_shape, result_dtype
from .registration import operator

EMPTY_POLICIES = ("farthest", "keep")


def _check(
    x: Tensor,
    offsets: Tensor,
    labels: Tensor,
    n_clusters: int,
    distance: Tensor | None,
    previous: Tensor | None,
    active: Tensor | None,
    empty: str,
) -> None:
    check_rows(x, offsets)
    if n_clusters < 1:
        raise DreamAccelError(f"n_clusters is {n_clusters}: it must be at least 1")
    check_choice("empty-cluster policy", empty, EMPTY_POLICIES)
    check_shape("labels", labels, (len(x),), torch.int32)
    check_shape("distance", distance, (len(x),), result_dtype(x))
    check_shape("previous", previous, (len(offsets) - 1, n_clusters, x.shape[1]), result_dtype(x))
    check_shape("active", active, (len(offsets) - 1,), torch.bool)
    check_device("x", x, labels=labels, distance=distance, previous=previous, active=active)
    if empty == "farthest" and distance is None and previous is None:
        raise DreamAccelError(
            'empty="farthest" without distance or previous: pass the distances kmeans_assign returned, or the '
            "centroids it was given"
        )
    if active is not None and previous is None:
        raise DreamAccelError("active is given without previous: inactive groups need centroids to keep")


def _outputs(x: Tensor, offsets: Tensor, n_clusters: int) -> tuple[Tensor, Tensor]:
    n_groups = offsets.shape[0] - 1
    centroids = x.new_empty((n_groups, n_clusters, x.shape[1]), dtype=result_dtype(x))
    return centroids, x.new_empty((n_groups, n_clusters), dtype=torch.int32)


@operator(check=_check, outputs=_outputs)
def kmeans_update(
    x: Tensor,
    offsets: Tensor,
    labels: Tensor,
    n_clusters: int,
    *,
    distance: Tensor | None = None,
    previous: Tensor | None = None,
    active: Tensor | None = None,
    empty: str = "keep",
) -> tuple[Tensor, Tensor]:
    """Replace every centroid by the mean of its members.

    ``c_gk = sum_{label_i = k} x_i / count_gk``, summed in row order in at least float32.

    An empty cluster follows ``empty``. ``"keep"``: it keeps its previous centroid (NaN, that is dead, without one).
    ``"farthest"``: the e-th empty cluster of a group takes the row with the e-th largest ``distance`` as its only
    member, and that row leaves its cluster; rows at distance 0 and the member nearest each centroid never move, so no
    other cluster runs empty. Where there are not enough such rows, ``"keep"`` applies.

    Args:
        x: (N, D) float32, float16 or bfloat16; the rows of all groups one after another.
        offsets: (G+1,) int64; where each group begins and where the last one ends.
        labels: (N,) int32 within the group; a row labelled outside 0..K-1 belongs to no cluster.
        n_clusters: K, at least 1.
        distance: (N,) float32 from the assignment, for ``empty="farthest"``. Default: the distances to ``previous`` are
            computed, only in the groups that have an empty cluster.
        previous: (G, K, D) float32; the centroids that empty clusters and inactive groups keep.
        active: (G,) bool; inactive groups keep ``previous``. Default: all active.
        empty: ``"farthest"`` or ``"keep"``.

    Returns:
        centroids (G, K, D) float32 and counts (G, K) int32.

    Raises:
        DreamAccelError: shapes, dtypes or devices do not fit, or an argument the policy needs is missing.
    """
