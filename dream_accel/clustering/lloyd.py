"""Lloyd's iteration over all groups: on an accelerator a fixed number of launches, and nothing that asks the host."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from .. import ops
from ..graphs import GraphedFunction
from ..groups import all_stopped, any_in_groups, count_in_groups, group_of_rows, sum_groups
from .gram import iterate_on_gram
from .seeding import Start, initial_centroids
from .settings import Fit, LloydSettings

GRAPHS = 4
"""CUDA graphs of fits kept at most."""


def fit_groups(
    offsets: Tensor, start: Start, settings: LloydSettings, gram_width: int | None = None, *, x: Tensor
) -> Fit:
    """Fit every group: iterate from ``start``, then let every row have the centroid nearest at fp32, of those returned.

    With ``gram_width``, the iteration runs on Gram matrices that wide.
    """
    centroids = initial_centroids(x, offsets, settings.n_clusters, start)
    if gram_width is None:
        labels, centroids, n_iter = iterate(x, offsets, centroids, settings)
    else:
        centroids, n_iter = iterate_on_gram(x, offsets, centroids, settings, gram_width)
        labels, _ = ops.kmeans_assign(x, offsets, centroids, with_distance=False)
    group = group_of_rows(offsets, len(labels))
    counts = count_in_groups(labels, group, len(offsets) - 1, settings.n_clusters)
    return Fit(labels, centroids, counts, n_iter)


@cache
def graphed_fit() -> GraphedFunction:
    """:func:`fit_groups`, recorded in a CUDA graph where a fit of the same kind comes again.

    The rows are too large to copy and are read where they lie. Features that are freed and allocated anew, as an
    embedding loop does, usually lie where the last ones lay.
    """
    return GraphedFunction(fit_groups, in_place=("x",), copy_outputs=True, max_graphs=GRAPHS)


def inertia(x: Tensor, offsets: Tensor, centroids: Tensor) -> Tensor:
    """(G,) float32 sum of the squared distances of every group's rows to the nearest of its centroids."""
    return sum_groups(ops.kmeans_assign(x, offsets, centroids)[1], offsets).float()


def iterate(x: Tensor, offsets: Tensor, centroids: Tensor, settings: LloydSettings) -> tuple[Tensor, Tensor, Tensor]:
    """Labels at fp32 after at most ``max_iter`` iterations, their centroids, and how many iterations every group did.

    A group stops at its fixpoint. On an accelerator the launches for it go on and do nothing, so their number is fixed.
    """
    n_groups = len(offsets) - 1
    labels = torch.full((len(x),), -1, dtype=torch.int32, device=x.device)
    active = torch.ones(n_groups, dtype=torch.bool, device=x.device)
    fixed = torch.zeros_like(active)
    n_iter = torch.zeros(n_groups, dtype=torch.int32, device=x.device)
    tolerance = settings.tol * _mean_variance(x, offsets) if settings.tol > 0 else None

    for _ in range(settings.max_iter):
        if all_stopped(active):
            break
        previous_labels, previous = labels, centroids
        labels, _ = ops.kmeans_assign(
            x, offsets, centroids, active=active, labels=labels, precision=settings.precision, with_distance=False
        )
        # Unchanged labels mean the centroids are the means of exactly these members: a fixpoint.
        still, active = active, active & any_in_groups(labels != previous_labels, offsets)
        fixed |= still ^ active
        centroids, _ = ops.kmeans_update(
            x, offsets, labels, settings.n_clusters, previous=previous, active=active, empty=settings.empty
        )
        n_iter += active
        if tolerance is not None:
            shift = (centroids - previous).square().nan_to_num(nan=0.0).sum(dim=(1, 2))
            active = active & (shift > tolerance)

    # At its fixpoint a group has the labels of its centroids, if they were found at fp32.
    stale = ~fixed if settings.precision == "fp32" else torch.ones_like(fixed)
    if not all_stopped(stale):
        labels, _ = ops.kmeans_assign(x, offsets, centroids, active=stale, labels=labels, with_distance=False)
    return labels, centroids, n_iter


def _mean_variance(x: Tensor, offsets: Tensor) -> Tensor:
    """(G,) variance of every group's features, averaged over features."""
    labels = torch.zeros(len(x), dtype=torch.int32, device=x.device)
    mean, counts = ops.kmeans_update(x, offsets, labels, 1)
    _, distance = ops.kmeans_assign(x, offsets, mean)
    return sum_groups(distance, offsets) / (counts.squeeze(1).clamp(min=1) * x.shape[1])
