"""A fit of all groups: initial centroids, Lloyd's iteration, final labels and counts."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from .. import ops
from ..groups import count_in_groups, group_of_rows, sum_groups
from ..runtime.graphs import GraphedFunction
from .gram import iterate_on_gram
from .scaling import Scaling
from .seeding import Start, initial_centroids
from .settings import Fit, LloydSettings

GRAPHS = 4
"""Largest number of CUDA graphs of fits that are kept."""


def fit_groups(
    offsets: Tensor, start: Start, settings: LloydSettings, gram_width: int | None = None, *, x: Tensor
) -> Fit:
    """Fit every group: iterate from ``start``, then label every row with the nearest returned centroid at fp32.

    With ``gram_width``, the iteration runs on Gram matrices of that width.
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
    """:func:`fit_groups`, recorded in a CUDA graph when a fit of the same kind comes again.

    The rows are too large to copy and are read in place. Features that are freed and allocated again, as in an
    embedding loop, usually have the address of the last ones.
    """
    return GraphedFunction(fit_groups, in_place=("x",), copy_outputs=True, max_graphs=GRAPHS)


def inertia(x: Tensor, offsets: Tensor, centroids: Tensor, scaling: Scaling | None) -> Tensor:
    """(G,) sum of the squared distances of every group's rows to the nearest of its centroids, unscaled.

    float32; float64 where groups are scaled.
    """
    if scaling is not None:
        x = scaling.rows(x, offsets)
    return unscaled_sums(ops.kmeans_assign(x, offsets, centroids)[1], offsets, scaling)


def unscaled_sums(distance: Tensor, offsets: Tensor, scaling: Scaling | None) -> Tensor:
    """(G,) sums of the squared distances of every group, from those of its scaled rows."""
    sums = sum_groups(distance, offsets)
    return sums.float() if scaling is None else scaling.undo_squares(sums)


def iterate(x: Tensor, offsets: Tensor, centroids: Tensor, settings: LloydSettings) -> tuple[Tensor, Tensor, Tensor]:
    """Labels at fp32 after at most ``max_iter`` iterations, their centroids, and the iterations of every group."""
    tolerance = None
    if settings.tol > 0:
        tolerance = (settings.tol * _mean_variance(x, offsets)).to(ops.result_dtype(x))
    return ops.kmeans_iterate(
        x,
        offsets,
        centroids,
        settings.max_iter,
        tolerance=tolerance,
        precision=settings.precision,
        empty=settings.empty,
    )


def _mean_variance(x: Tensor, offsets: Tensor) -> Tensor:
    """(G,) variance of every group's features, averaged over features."""
    labels = torch.zeros(len(x), dtype=torch.int32, device=x.device)
    mean, counts = ops.kmeans_update(x, offsets, labels, 1)
    _, distance = ops.kmeans_assign(x, offsets, mean)
    return sum_groups(distance, offsets) / (counts.squeeze(1).clamp(min=1) * x.shape[1])
