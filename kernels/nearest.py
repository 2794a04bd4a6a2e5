"""Selection of the rows nearest each centroid."""

from __future__ import annotations

import torch
from torch import Tensor

from .distance import own_distance
from .members import member_lists
from .slots import fill_slots


def nearest_members(x: Tensor, offsets: Tensor, centroids: Tensor, labels: Tensor, n: int) -> Tensor:
    """Pick the ``n`` members nearest each centroid, all distinct.

    Members are ranked by (distance to their centroid, row). The slots that clusters with fewer than ``n`` members
    leave free are filled, in order, by the unpicked rows of the group, ranked the same way.

    Args:
        x: (N, D) float32, float16 or bfloat16.
        offsets: (G+1,) int64.
        centroids: (G, K, D) float32.
        labels: (N,) int32 within the group.
        n: picks per cluster.

    Returns:
        (G, K, n) int64 row indices; -1 where a group has too few rows.
    """
    n_groups, n_clusters, _ = centroids.shape
    if n_groups < 1:
        return torch.empty((0, n_clusters, n), dtype=torch.int64, device=x.device)
    distance = own_distance(x, offsets, centroids, labels)
    members = member_lists(offsets, labels, n_clusters, n_slots=n)
    fill_slots(members, offsets, distance)
    assert members.slots is not None
    return members.slots.rows
