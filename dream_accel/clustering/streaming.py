"""Fits of rows that stay in host memory: every pass copies them to the device one chunk at a time.

A chunk has whole groups, or a part of one group that is longer than a chunk and is cut at multiples of ``chunk_rows``
from its own first row. So a group's result depends only on the group and on ``chunk_rows``. If a group fits in a chunk,
its means are, bit for bit, those of a fit in memory; for a longer one the means of its parts are averaged in float64.

The host feeds every pass anyway, so once per pass it reads whether any group is still active.

Ranks share the chunks: each reads its own, and all add the sums of all chunks in the order of the chunks, so that the
number of ranks changes no bit.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from .. import ops
from ..groups import any_in_groups, count_in_groups, group_of_rows, sum_groups
from ..runtime.distributed import ALONE, Ranks
from .empty_clusters import relocated_labels
from .host_rows import Chunk, HostRows
from .lloyd import unscaled_sums
from .scaling import Scaling
from .seeding import Start, draw_rows
from .settings import Fit, LloydSettings


def fit_stream(
    x: Tensor,
    offsets: Tensor,
    start: Start,
    settings: LloydSettings,
    chunk_rows: int,
    scaling: Scaling | None = None,
    ranks: Ranks = ALONE,
) -> Fit:
    """:func:`fit_groups` of rows in host memory, on the device of ``offsets``.

    The label and the distance of every row are kept there. Results are on the device, of scaled rows where there is a
    scaling; ``start`` is scaled. All ranks pass the same rows, and have the same results.
    """
    rows = HostRows(x, offsets.tolist(), chunk_rows, offsets.device, scaling, ranks)
    centroids = _initial_centroids(rows, offsets, start, settings)
    centroids, n_iter = _iterate(rows, offsets, centroids, settings)
    labels, _ = _assign(rows, offsets, centroids)
    group = group_of_rows(offsets, len(labels))
    counts = count_in_groups(labels, group, len(offsets) - 1, settings.n_clusters)
    return Fit(labels, centroids, counts, n_iter)


def stream_inertia(x: Tensor, offsets: Tensor, centroids: Tensor, scaling: Scaling | None, chunk_rows: int) -> Tensor:
    """:func:`inertia` of rows in host memory, on the device of ``offsets``; every rank reads all chunks."""
    _, distance = _assign(HostRows(x, offsets.tolist(), chunk_rows, offsets.device, scaling), offsets, centroids)
    return unscaled_sums(distance, offsets, scaling)


def _initial_centroids(rows: HostRows, offsets: Tensor, start: Start, settings: LloydSettings) -> Tensor:
    if start.kind == "centroids":
        assert start.centroids is not None
        return start.centroids
    if start.kind == "labels":
        assert start.labels is not None
        sums = Sums(rows, offsets, settings.n_clusters)
        sums.add_all(start.labels)
        return sums.means(start.centroids)

    def distance_to(picks: Tensor) -> Tensor:
        return _assign(rows, offsets, rows.centroids(picks))[1]

    return rows.centroids(draw_rows(offsets, len(rows.x), settings.n_clusters, start, distance_to))


def _iterate(rows: HostRows, offsets: Tensor, centroids: Tensor, settings: LloydSettings) -> tuple[Tensor, Tensor]:
    n_rows, n_groups, device = len(rows.x), len(offsets) - 1, offsets.device
    labels = torch.full((n_rows,), -1, dtype=torch.int32, device=device)
    distance = torch.zeros(n_rows, dtype=centroids.dtype, device=device)
    active = torch.ones(n_groups, dtype=torch.bool, device=device)
    n_iter = torch.zeros(n_groups, dtype=torch.int32, device=device)
    tolerance = settings.tol * _mean_variance(rows, offsets) if settings.tol > 0 else None

    for _ in range(settings.max_iter):
        previous_labels, previous = labels.clone(), centroids
        sums = Sums(rows, offsets, settings.n_clusters)
        for chunk, x in rows.read():
            labels[chunk.rows], distance[chunk.rows] = ops.kmeans_assign(
                x,
                chunk.offsets,
                centroids[chunk.groups],
                active=active[chunk.groups],
                labels=labels[chunk.rows],
                distance=distance[chunk.rows],
                precision=settings.precision,
            )
            sums.add(chunk, x, labels)
        active = active & rows.any_rank(any_in_groups(labels != previous_labels, offsets))
        if not active.any():
            break
        sums.complete()
        if settings.empty == "farthest":
            _rescue(sums, offsets, labels, distance, active)
        centroids = torch.where(active.view(-1, 1, 1), sums.means(previous), previous)
        n_iter += active
        if tolerance is not None:
            shift = (centroids - previous).square().nan_to_num(nan=0.0).sum(dim=(1, 2))
            active = active & (shift > tolerance)
    return centroids, n_iter


class Sums:
    """Sums of the members of every cluster, in float64, chunk by chunk."""

    def __init__(self, rows: HostRows, offsets: Tensor, n_clusters: int) -> None:
        n_groups, device = len(offsets) - 1, offsets.device
        self.rows = rows
        self.n_clusters = n_clusters
        self.dtype = ops.result_dtype(rows.x)
        self.totals = torch.zeros(n_groups, n_clusters, rows.x.shape[1], dtype=torch.float64, device=device)
        self.counts = torch.zeros(n_groups, n_clusters, dtype=torch.int32, device=device)
        self._own: list[tuple[slice, Tensor, Tensor]] = []
        """Groups, means and counts of own chunks, which other ranks have not added yet."""

    def add(self, chunk: Chunk, x: Tensor, labels: Tensor) -> None:
        """Add the rows of a chunk. A mean times its count is exact in float64, so dividing restores the mean."""
        means, counts = ops.kmeans_update(x, chunk.offsets, labels[chunk.rows], self.n_clusters)
        if self.rows.ranks.count == 1:
            self._take(chunk.groups, means, counts)
        else:
            self._own.append((chunk.groups, means.cpu(), counts.cpu()))

    def _take(self, groups: slice, means: Tensor, counts: Tensor) -> None:
        means, counts = means.to(self.totals.device), counts.to(self.counts.device)
        n = counts.unsqueeze(2)
        self.totals[groups] += torch.where(n > 0, means.double() * n, 0.0)
        self.counts[groups] += counts

    def complete(self) -> None:
        """Add what all ranks have added of their own chunks, in the order of the chunks."""
        for parts in self.rows.ranks.gathered(self._own):
            for part in parts:
                self._take(*part)
        self._own = []

    def add_all(self, labels: Tensor, chunks: Iterable[Chunk] | None = None) -> None:
        """Add the rows of all chunks, or of some of this rank's own, which are read for this purpose."""
        for chunk, x in self.rows.read(chunks):
            self.add(chunk, x, labels)
        self.complete()

    def renew(self, groups: set[int], labels: Tensor) -> None:
        """Replace the sums of some groups by those with other labels."""

        def is_read(chunk: Chunk) -> bool:
            return not groups.isdisjoint(range(chunk.groups.start, chunk.groups.stop))

        for chunk in filter(is_read, self.rows.chunks):
            self.totals[chunk.groups] = 0
            self.counts[chunk.groups] = 0
        self.add_all(labels, filter(is_read, self.rows.own))

    def means(self, previous: Tensor | None) -> Tensor:
        """(G, K, D); an empty cluster keeps its previous centroid, NaN without one."""
        n = self.counts.unsqueeze(2)
        means = (self.totals / n).to(self.dtype)
        return torch.where(n > 0, means, torch.nan if previous is None else previous)


def _rescue(sums: Sums, offsets: Tensor, labels: Tensor, distance: Tensor, active: Tensor) -> None:
    """Give the farthest rows to empty clusters. The groups in which a row moved are read once more."""
    if sums.rows.ranks.count > 1:
        if not (sums.counts == 0).any():
            return
        labels, distance = map(sums.rows.completed, (labels, distance))
    moved = relocated_labels(offsets, labels, distance, sums.counts, active)
    groups = any_in_groups(moved != labels, offsets).nonzero().flatten().tolist()
    if groups:
        sums.renew(set(groups), moved)


def _assign(rows: HostRows, offsets: Tensor, centroids: Tensor) -> tuple[Tensor, Tensor]:
    labels = torch.empty(len(rows.x), dtype=torch.int32, device=offsets.device)
    distance = torch.empty(len(rows.x), dtype=centroids.dtype, device=offsets.device)
    for chunk, x in rows.read():
        labels[chunk.rows], distance[chunk.rows] = ops.kmeans_assign(x, chunk.offsets, centroids[chunk.groups])
    return rows.completed(labels), rows.completed(distance)


def _mean_variance(rows: HostRows, offsets: Tensor) -> Tensor:
    sums = Sums(rows, offsets, 1)
    sums.add_all(torch.zeros(len(rows.x), dtype=torch.int32, device=offsets.device))
    _, distance = _assign(rows, offsets, sums.means(None))
    return sum_groups(distance, offsets) / (sums.counts.squeeze(1).clamp(min=1) * rows.x.shape[1])
