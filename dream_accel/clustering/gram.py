"""Lloyd's iteration on the Gram matrix of a group, for groups with fewer rows than features.

With S = X X^T, X the centred rows of a group, the mean of the rows of S over the members of cluster k is

    M_k = (1/n_k) sum_{j in k} S_j,    M_ki = <c_k, x_i>,    |c_k|^2 = (1/n_k) sum_{j in k} M_kj

so an iteration reads S once instead of X twice and multiplies nothing. The centroids themselves are computed at the
end, as means of the members, and the final assignment is that of every fit.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .. import ops
from ..groups import any_in_groups, count_in_groups, group_of_rows
from ..runtime.devices import all_stopped
from .empty_clusters import relocated_labels
from .settings import LloydSettings

LEAST_ROWS = 64
"""Smaller groups converge in less time than the product takes."""
WIDTH = 64
"""Rows of S are padded to a multiple of this, so that one kernel sums them whatever the batch."""


def serves(n_rows: int, n_features: int, settings: LloydSettings) -> bool:
    """Return True if a group is fitted on its Gram matrix, by its size and the settings, whatever the batch."""
    asked = settings.gram and settings.tol == 0 and settings.empty == "farthest"
    return asked and LEAST_ROWS <= n_rows < n_features / 2


def iterate_on_gram(
    x: Tensor, offsets: Tensor, start: Tensor, settings: LloydSettings, width: int
) -> tuple[Tensor, Tensor]:
    """Centroids after at most ``max_iter`` iterations, and the number of iterations of every group.

    Equal to :func:`iterate` except that an empty cluster that no row can fill returns to its initial centroid.

    Args:
        x: (N, D) float32, float16 or bfloat16.
        offsets: (G+1,) int64.
        start: (G, K, D) float32.
        settings: with ``tol`` 0 and ``empty`` farthest.
        width: multiple of 64, at least the rows of any group.
    """
    n_groups, n_clusters = start.shape[:2]
    x32 = x.float()
    one = torch.zeros(len(x), dtype=torch.int32, device=x.device)
    mean, _ = ops.kmeans_update(x, offsets, one, 1)
    gram = ops.group_products(x32, offsets, x32, offsets, mean.squeeze(1), width)
    start_products, start_norms = _in_terms_of_rows(start, x32, offsets, mean, width)

    group = group_of_rows(offsets, len(x))
    position = torch.arange(len(x), device=x.device) - offsets[group]
    diagonal = gram.gather(1, position.unsqueeze(1)).squeeze(1)
    products, norms = start_products, start_norms
    labels = torch.full((len(x),), -1, dtype=torch.int32, device=x.device)
    members = labels
    active = torch.ones(n_groups, dtype=torch.bool, device=x.device)
    n_iter = torch.zeros(n_groups, dtype=torch.int32, device=x.device)

    def with_own_centroid(of: Tensor) -> Tensor:
        return products.flatten().gather(0, (group * n_clusters + of) * width + position)

    for _ in range(settings.max_iter):
        if all_stopped(active):
            break
        previous_labels = labels
        labels = ops.gram_assign(products, norms, offsets, active, labels)
        active = active & any_in_groups(labels != previous_labels, offsets)
        own_norm = norms.flatten().gather(0, group * n_clusters + labels)
        distance = (diagonal - 2 * with_own_centroid(labels) + own_norm).clamp(min=0)
        counts = count_in_groups(labels, group, n_groups, n_clusters)
        moved = relocated_labels(offsets, labels, distance, counts, active)
        members = torch.where(active[group], moved, members)
        products, _ = ops.kmeans_update(gram, offsets, members, n_clusters, previous=start_products, active=active)
        own = with_own_centroid(members).unsqueeze(1)
        norms = ops.kmeans_update(own, offsets, members, n_clusters, previous=start_norms.unsqueeze(2))[0].squeeze(2)
        n_iter += active
    return ops.kmeans_update(x, offsets, members, n_clusters, previous=start)[0], n_iter


def _in_terms_of_rows(centroids: Tensor, x: Tensor, offsets: Tensor, mean: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """(G, K, W) products of centroids with rows, and (G, K) squared norms, both relative to the mean."""
    n_groups, n_clusters, n_features = centroids.shape
    rows = centroids.reshape(-1, n_features)
    own_offsets = torch.arange(n_groups + 1, device=x.device) * n_clusters
    products = ops.group_products(rows, own_offsets, x, offsets, mean.squeeze(1), width)
    _, norms = ops.kmeans_assign(rows, own_offsets, mean)
    return products.view(n_groups, n_clusters, width), norms.view(n_groups, n_clusters)
