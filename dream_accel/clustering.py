"""K-Means over many ragged groups at once: exact, seeded, without a host round trip in the loop."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import ops
from .arrays import converter_like, to_tensor
from .errors import DreamAccelError, choices
from .groups import any_in_groups, as_offsets, group_of_rows, random_rows, sum_groups
from .random import uniform_rows

INITS = ("random", "k-means++", "labels")


class KMeansResult(NamedTuple):
    """What :func:`kmeans` returns; all five belong together."""

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


class BatchedKMeans:
    """Lloyd's K-Means for every group in one call.

    Each iteration assigns every row to the nearest centroid of its group, then replaces every centroid by the mean of
    its members; a group stops at its fixpoint and costs nothing afterwards. A group's result is the same, bit for bit,
    alone, in a batch, and in any order of groups. Lloyd (1982); k-means++ from Arthur and Vassilvitskii (2007).

    Args:
        n_clusters: K per group, at least 1. A group with fewer rows gets one cluster per row; the centroids left over
            are NaN, have count 0 and are never picked.
        max_iter: Lloyd iterations at most, at least 0.
        tol: a group also stops when the squared shift of its centroids is at most ``tol`` times the mean variance of
            its features, as in scikit-learn. 0 stops at the fixpoint only.
        init: ``"random"`` rows without replacement, ``"k-means++"``, ``"labels"`` (the partition of the last fit), or
            centroids (G, K, D).
        seed: of the random initialisations.
        precision: of the products that decide labels while iterating, on GPUs: ``"fp32"``, ``"tf32"`` or ``"bf16"``.
            The final pass is always fp32.
        empty: what an empty cluster does: take the row ``"farthest"`` from its centroid, or ``"keep"`` its centroid.

    Attributes:
        labels_: (N,) int32, nearest centroid of every row.
        cluster_centers_: (G, K, D) float32, the centroids ``labels_`` were computed with.
        counts_: (G, K) int32, rows per label.
        inertia_: (G,) float32, sum of squared distances to the own centroid.
        n_iter_: (G,) int32, iterations until the group stopped.
    """

    labels_: Any
    cluster_centers_: Any
    counts_: Any
    inertia_: Any
    n_iter_: Any

    def __init__(
        self,
        n_clusters: int,
        max_iter: int = 20,
        tol: float = 0.0,
        init: str | Any = "random",
        seed: int = 0,
        precision: str = "tf32",
        empty: str = "farthest",
    ) -> None:
        if not isinstance(n_clusters, int) or n_clusters < 1:
            raise DreamAccelError(f"n_clusters is {n_clusters!r}: it must be an integer, at least 1")
        if max_iter < 0 or tol < 0:
            raise DreamAccelError(f"max_iter is {max_iter} and tol is {tol}: neither may be negative")
        if isinstance(init, str) and init not in INITS:
            raise choices("init", init, (*INITS, "centroids of shape (G, K, D)"))
        if precision not in ops.PRECISIONS:
            raise choices("precision", precision, ops.PRECISIONS)
        if empty not in ops.EMPTY_POLICIES:
            raise choices("empty-cluster policy", empty, ops.EMPTY_POLICIES)
        self.n_clusters = n_clusters
        self.max_iter = max_iter
        self.tol = tol
        self.init = init
        self.seed = seed
        self.precision = precision
        self.empty = empty
        self._fitted: tuple[Tensor, Tensor, Tensor, Tensor] | None = None

    @torch.no_grad()
    def fit(self, x: Any, offsets: Any = None, *, init: str | Any | None = None, check: bool = True) -> BatchedKMeans:
        """Cluster the rows of every group.

        Args:
            x: (N, D) float32, float16 or bfloat16; torch, NumPy or CuPy. Results come back in the same kind of array.
            offsets: (G+1,) integers; group ``g`` owns rows ``offsets[g]`` to ``offsets[g+1] - 1``. Default: one group.
            init: overrides the constructor's for this fit.
            check: refuse NaN, Inf and malformed offsets. That waits for the device once; False trusts the caller.

        Returns:
            self.

        Raises:
            DreamAccelError: x is not (N, D) floating point, holds NaN or Inf, or offsets or centroids do not fit.
        """
        back = converter_like(x)
        x = _as_rows(x)
        offsets = as_offsets(offsets, len(x), x.device, check)
        if check:
            check_finite(x)
        centroids = self._initial_centroids(x, offsets, self.init if init is None else init)
        labels, distance, centroids, n_iter = self._lloyd(x, offsets, centroids)

        self._fitted = (x, offsets, labels, centroids)
        self._back = back
        self.labels_ = back(labels)
        self.cluster_centers_ = back(centroids)
        self.counts_ = back(_count(labels, offsets, self.n_clusters))
        self.inertia_ = back(sum_groups(distance, offsets).float())
        self.n_iter_ = back(n_iter)
        return self

    def fit_predict(self, x: Any, offsets: Any = None) -> Any:
        """``fit(x, offsets).labels_``."""
        return self.fit(x, offsets).labels_

    @torch.no_grad()
    def predict(self, x: Any, offsets: Any = None) -> Any:
        """(N,) int32: the nearest of the fitted centroids for other rows of the same G groups."""
        *_, centroids = self._state("predict")
        back = converter_like(x)
        x = _as_rows(x)
        check_finite(x)
        labels, _ = ops.kmeans_assign(x, as_offsets(offsets, len(x), x.device), centroids)
        return back(labels)

    @torch.no_grad()
    def representatives(self, n: int = 1) -> Any:
        """(G, K*n) int64 rows: the ``n`` nearest each centroid, distinct; -1 where a group has too few rows."""
        x, offsets, labels, centroids = self._state("representatives")
        return self._back(ops.nearest_members(x, offsets, centroids, labels, n).flatten(1))

    def _state(self, method: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        if self._fitted is None:
            raise DreamAccelError(f"{method}() before fit(): call fit(x, offsets) first")
        return self._fitted

    def _initial_centroids(self, x: Tensor, offsets: Tensor, init: str | Any) -> Tensor:
        n_groups = len(offsets) - 1
        if not isinstance(init, str):
            centroids = to_tensor(init, "init").to(x.device)
            expected = (n_groups, self.n_clusters, x.shape[1])
            if tuple(centroids.shape) != expected:
                raise DreamAccelError(
                    f"init has shape {tuple(centroids.shape)}: centroids must be (G, K, D) = {expected}"
                )
            return centroids.to(ops.result_dtype(x))
        if init == "labels":
            *_, labels, last = self._state('fit(init="labels")')
            if labels.shape != x.shape[:1]:
                raise DreamAccelError(
                    f'init="labels" with {len(x)} rows after a fit of {len(labels)}: the rows must be the same ones'
                )
            expected = (n_groups, self.n_clusters, x.shape[1])
            previous = last.to(x.device, ops.result_dtype(x)) if tuple(last.shape) == expected else None
            return ops.kmeans_update(x, offsets, labels.to(x.device), self.n_clusters, previous=previous)[0]
        if init == "k-means++":
            return _gather_rows(x, _plus_plus_rows(x, offsets, self.n_clusters, self.seed))
        return _gather_rows(x, random_rows(offsets, len(x), self.n_clusters, self.seed, "kmeans init"))

    def _lloyd(self, x: Tensor, offsets: Tensor, centroids: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Labels, distances, the centroids they were computed with, and iterations per group."""
        n_groups = len(offsets) - 1
        labels = torch.full((len(x),), -1, dtype=torch.int32, device=x.device)
        distance = torch.zeros(len(x), dtype=centroids.dtype, device=x.device)
        active = torch.ones(n_groups, dtype=torch.bool, device=x.device)
        n_iter = torch.zeros(n_groups, dtype=torch.int32, device=x.device)
        tolerance = self.tol * _mean_variance(x, offsets) if self.tol > 0 else None

        for _ in range(self.max_iter):
            previous_labels, previous = labels, centroids
            labels, distance = ops.kmeans_assign(
                x, offsets, centroids, active=active, labels=labels, distance=distance, precision=self.precision
            )
            # Unchanged labels mean the centroids are the means of exactly these members: a fixpoint.
            active = active & any_in_groups(labels != previous_labels, offsets)
            centroids, _ = ops.kmeans_update(
                x,
                offsets,
                labels,
                self.n_clusters,
                distance=distance,
                previous=previous,
                active=active,
                empty=self.empty,
            )
            n_iter += active
            if tolerance is not None:
                shift = (centroids - previous).square().nan_to_num(nan=0.0).sum(dim=(1, 2))
                active = active & (shift > tolerance)

        labels, distance = ops.kmeans_assign(x, offsets, centroids)
        return labels, distance, centroids, n_iter


def kmeans(x: Any, offsets: Any = None, n_clusters: int = 8, **options: Any) -> KMeansResult:
    """:class:`BatchedKMeans` as a function; ``options`` are its constructor's."""
    km = BatchedKMeans(n_clusters, **options).fit(x, offsets)
    return KMeansResult(km.labels_, km.cluster_centers_, km.counts_, km.inertia_, km.n_iter_)


def check_finite(x: Tensor, what: str = "x") -> None:
    """Refuse rows that hold NaN or Inf. One pass over x and one wait for the device."""
    bad = ~finite_rows(x)
    if bad.any():
        rows = bad.nonzero().squeeze(1)
        raise DreamAccelError(
            f"{what} holds NaN or Inf in {len(rows)} of {len(x)} rows (the first is row {int(rows[0])}): "
            "remove or repair them"
        )


def finite_rows(x: Tensor) -> Tensor:
    """(N,) bool: rows without NaN or Inf, told by their sum, which is finite unless squares would overflow anyway."""
    return x.sum(dim=1, dtype=torch.float32 if x.element_size() < 8 else None).isfinite()


def _as_rows(x: Any) -> Tensor:
    x = to_tensor(x).detach()
    if x.dim() != 2:
        raise DreamAccelError(f"x has shape {tuple(x.shape)}: rows must be 2-d (N, D); flatten the features first")
    if not x.is_floating_point():
        raise DreamAccelError(f"x is {x.dtype}: features must be floating point; convert with x.float()")
    return x.contiguous()


def _gather_rows(x: Tensor, rows: Tensor) -> Tensor:
    """(G, K, D) the given rows as centroids; NaN, that is dead, where the row is -1."""
    if len(x) == 0:
        return torch.full((*rows.shape, x.shape[1]), torch.nan, dtype=ops.result_dtype(x), device=x.device)
    centroids = x[rows.clamp(min=0)].to(ops.result_dtype(x))
    return centroids.masked_fill((rows < 0).unsqueeze(2), torch.nan)


def _plus_plus_rows(x: Tensor, offsets: Tensor, n_clusters: int, seed: int) -> Tensor:
    """(G, K) rows drawn one after another with probability proportional to the squared distance to those drawn before.

    The draw is a race of exponential clocks: the row with the smallest E_i / d_i wins, E_i exponential. A minimum needs
    no running sum, so a group's draw does not depend on the others and the host is never asked.
    """
    rows = torch.arange(len(x), device=x.device)
    group = group_of_rows(offsets, len(x))
    position = rows - offsets[group]
    weight = torch.ones(len(x), dtype=ops.result_dtype(x), device=x.device)
    taken = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    picks: list[Tensor] = []
    for k in range(n_clusters):
        clock = -uniform_rows(position, seed, "k-means++", k).log().to(weight.dtype)
        # Duplicates of drawn rows have weight 0 and come last; drawn rows never come again.
        time = (clock / weight).clamp(max=torch.finfo(weight.dtype).max).masked_fill(taken, torch.inf)
        row = _first_of_minimum(time, group, len(offsets) - 1)
        picks.append(row)
        taken = taken | (row[group] == rows)
        _, to_last = ops.kmeans_assign(x, offsets, _gather_rows(x, row.unsqueeze(1)))
        weight = torch.minimum(weight, to_last) if k else to_last
    return torch.stack(picks, dim=1)


def _first_of_minimum(values: Tensor, group: Tensor, n_groups: int) -> Tensor:
    """(G,) the row with the smallest finite value of every group, ties to the lowest row; -1 where there is none."""
    least = torch.full((n_groups,), torch.inf, dtype=values.dtype, device=values.device)
    least = least.scatter_reduce(0, group, values, "amin")
    rows = torch.arange(len(values), device=values.device)
    nobody = torch.iinfo(torch.int64).max
    wins = (values == least[group]) & values.isfinite()
    first = torch.full((n_groups,), nobody, dtype=torch.int64, device=values.device)
    first = first.scatter_reduce(0, group, torch.where(wins, rows, nobody), "amin")
    return torch.where(first == nobody, -1, first)


def _mean_variance(x: Tensor, offsets: Tensor) -> Tensor:
    """(G,) variance of every group's features, averaged over features."""
    labels = torch.zeros(len(x), dtype=torch.int32, device=x.device)
    mean, counts = ops.kmeans_update(x, offsets, labels, 1)
    _, distance = ops.kmeans_assign(x, offsets, mean)
    return sum_groups(distance, offsets) / (counts.squeeze(1).clamp(min=1) * x.shape[1])


def _count(labels: Tensor, offsets: Tensor, n_clusters: int) -> Tensor:
    n_groups = len(offsets) - 1
    cluster = group_of_rows(offsets, len(labels)) * n_clusters + labels
    counts = torch.zeros(n_groups * n_clusters, dtype=torch.int32, device=labels.device)
    return counts.index_add_(0, cluster, torch.ones_like(labels)).view(n_groups, n_clusters)
