"""K-Means as one function of rows, without an object."""

from __future__ import annotations

from typing import Any, NamedTuple

from .estimator import BatchedKMeans


class KMeansResult(NamedTuple):
    """Results of :func:`kmeans`: all five are of the same centroids."""

    labels: Any
    """(N,) int32 cluster of every row, within its group."""
    centroids: Any
    """(G, K, D) float32; NaN where a group has fewer rows than clusters."""
    counts: Any
    """(G, K) int32 members of every cluster."""
    inertia: Any
    """(G,) float32 sum of squared distances to the own centroid."""
    n_iter: Any
    """(G,) int32 Lloyd iterations until the group stopped."""


def kmeans(
    x: Any,
    offsets: Any = None,
    n_clusters: int = 8,
    *,
    max_iter: int = 20,
    tol: float = 0.0,
    init: str | Any = "random",
    seed: int = 0,
    precision: str = "tf32",
    empty: str = "farthest",
    cuda_graph: bool = True,
    gram: bool = False,
) -> KMeansResult:
    """:class:`BatchedKMeans` as a function: its arguments, and the results of one fit."""
    km = BatchedKMeans(n_clusters, max_iter, tol, init, seed, precision, empty, cuda_graph, gram).fit(x, offsets)
    return KMeansResult(km.labels_, km.cluster_centers_, km.counts_, km.inertia_, km.n_iter_)
