"""Fits of rows that stay in host memory: every pass copies them to the device one chunk at a time.

A chunk has whole groups, or a part of one group that is longer than a chunk and is cut at multiples of ``chunk_rows``
from its own first row. So a group's result depends only on the group and on ``chunk_rows``. If a group fits in a chunk,
its means are, bit for bit, those of a fit in memory; for a longer one the means of its parts are averaged in float64.

The host feeds every pass anyway, so once per pass it reads whether any group is still active.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from .. import ops
from ..groups import any_in_groups, count_in_groups, group_of_rows, sum_groups
from .empty_clusters import relocated_labels
from .lloyd import unscaled_sums
from .scaling import Scaling
from .seeding import Start, draw_rows, gather_rows
from .settings import Fit, LloydSettings


class Chunk(NamedTuple):
    """Rows that are on the device at one time."""

    rows: slice
    groups: slice
    offsets: Tensor
    """(groups + 1,) int64 on the device, counted from the chunk's first row."""


def cut(bounds: Sequence[int], chunk_rows: int, device: torch.device) -> list[Chunk]:
    """Chunks of at most ``chunk_rows`` rows; ``bounds`` are the offsets, on the host."""
    chunks = []
    first, n_groups = 0, len(bounds) - 1

    def close(last: int) -> None:
        if bounds[last] > bounds[first]:
            offsets = torch.tensor(bounds[first : last + 1]) - bounds[first]
            chunks.append(Chunk(slice(bounds[first], bounds[last]), slice(first, last), offsets.to(device)))

    for g, (start, stop) in enumerate(pairwise(bounds)):
        if stop - bounds[first] <= chunk_rows:
            continue
        close(g)
        first = g
        if stop - start > chunk_rows:
            for row in range(start, stop, chunk_rows):
                end = min(row + chunk_rows, stop)
                chunks.append(Chunk(slice(row, end), slice(g, g + 1), torch.tensor([0, end - row]).to(device)))
            first = g + 1
    close(n_groups)
    return chunks


class HostRows:
    """Rows in host memory, read chunk by chunk on ``device`` and scaled there."""

    def __init__(
        self,
        x: Tensor,
        bounds: Sequence[int],
        chunk_rows: int,
        device: torch.device,
        scaling: Scaling | None = None,
    ) -> None:
        self.x = x
        self.device = device
        self.scaling = scaling
        self.chunks = cut(bounds, chunk_rows, device)

    def read(self, chunks: Iterable[Chunk] | None = None) -> Iterator[tuple[Chunk, Tensor]]:
        """Every chunk with its rows on the device, which are valid until the next chunk is read."""
        chunks = self.chunks if chunks is None else list(chunks)
        read: Iterator[tuple[Chunk, Tensor]]
        if self.device.type != "cuda":
            read = ((chunk, self.x[chunk.rows].to(self.device)) for chunk in chunks)
        else:
            read = self._read_ahead(chunks)
        scaling = self.scaling
        if scaling is None:
            return read
        return ((chunk, scaling.part(chunk.groups).rows(x, chunk.offsets)) for chunk, x in read)

    def centroids(self, picks: Tensor) -> Tensor:
        """(G, K, D) the given rows as centroids, scaled, on the device."""
        centroids = gather_rows(self.x, picks.to(self.x.device)).to(self.device)
        return centroids if self.scaling is None else self.scaling.centroids(centroids)

    def _read_ahead(self, chunks: Sequence[Chunk]) -> Iterator[tuple[Chunk, Tensor]]:
        """Copies one chunk while another is in use, through two pinned buffers and two on the device."""
        longest = max((chunk.rows.stop - chunk.rows.start for chunk in chunks), default=0)
        shape = (2, longest, self.x.shape[1])
        pinned = torch.empty(shape, dtype=self.x.dtype, pin_memory=True)
        on_device = torch.empty(shape, dtype=self.x.dtype, device=self.device)
        copies = torch.cuda.Stream(self.device)
        current = torch.cuda.current_stream(self.device)
        copies.wait_stream(current)
        copied = [torch.cuda.Event() for _ in range(2)]
        used = [torch.cuda.Event() for _ in range(2)]

        def send(i: int) -> None:
            side = i % 2
            source = self.x[chunks[i].rows]
            if i >= 2:
                copied[side].synchronize()
                copies.wait_event(used[side])
            pinned[side, : len(source)].copy_(source)
            with torch.cuda.stream(copies):
                on_device[side, : len(source)].copy_(pinned[side, : len(source)], non_blocking=True)
                copied[side].record(copies)

        for i, chunk in enumerate(chunks):
            if i == 0:
                send(0)
            if i + 1 < len(chunks):
                send(i + 1)
            current.wait_event(copied[i % 2])
            yield chunk, on_device[i % 2, : chunk.rows.stop - chunk.rows.start]
            used[i % 2].record(current)
        # The buffers return to the allocator in the order of the current stream, after the last copy.
        current.wait_stream(copies)


def fit_stream(
    x: Tensor,
    offsets: Tensor,
    start: Start,
    settings: LloydSettings,
    chunk_rows: int,
    scaling: Scaling | None = None,
) -> Fit:
    """:func:`fit_groups` of rows in host memory, on the device of ``offsets``.

    The label and the distance of every row are kept there. Results are on the device, of scaled rows where there is a
    scaling; ``start`` is scaled.
    """
    rows = HostRows(x, offsets.tolist(), chunk_rows, offsets.device, scaling)
    centroids = _initial_centroids(rows, offsets, start, settings)
    centroids, n_iter = _iterate(rows, offsets, centroids, settings)
    labels, _ = _assign(rows, offsets, centroids)
    group = group_of_rows(offsets, len(labels))
    counts = count_in_groups(labels, group, len(offsets) - 1, settings.n_clusters)
    return Fit(labels, centroids, counts, n_iter)


def stream_inertia(x: Tensor, offsets: Tensor, centroids: Tensor, scaling: Scaling | None, chunk_rows: int) -> Tensor:
    """:func:`inertia` of rows in host memory, on the device of ``offsets``."""
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
        active = active & any_in_groups(labels != previous_labels, offsets)
        if not active.any():
            break
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

    def add(self, chunk: Chunk, x: Tensor, labels: Tensor) -> None:
        """Add the rows of a chunk. A mean times its count is exact in float64, so dividing restores the mean."""
        means, counts = ops.kmeans_update(x, chunk.offsets, labels[chunk.rows], self.n_clusters)
        n = counts.unsqueeze(2)
        self.totals[chunk.groups] += torch.where(n > 0, means.double() * n, 0.0)
        self.counts[chunk.groups] += counts

    def add_all(self, labels: Tensor, chunks: Iterable[Chunk] | None = None) -> None:
        """Add all rows, or those of some chunks, which are read for this purpose."""
        for chunk, x in self.rows.read(chunks):
            self.add(chunk, x, labels)

    def renew(self, groups: set[int], labels: Tensor) -> None:
        """Replace the sums of some groups by those with other labels."""
        chunks = [c for c in self.rows.chunks if not groups.isdisjoint(range(c.groups.start, c.groups.stop))]
        for chunk in chunks:
            self.totals[chunk.groups] = 0
            self.counts[chunk.groups] = 0
        self.add_all(labels, chunks)

    def means(self, previous: Tensor | None) -> Tensor:
        """(G, K, D); an empty cluster keeps its previous centroid, NaN without one."""
        n = self.counts.unsqueeze(2)
        means = (self.totals / n).to(self.dtype)
        return torch.where(n > 0, means, torch.nan if previous is None else previous)


def _rescue(sums: Sums, offsets: Tensor, labels: Tensor, distance: Tensor, active: Tensor) -> None:
    """Give the farthest rows to empty clusters. The groups in which a row moved are read once more."""
    moved = relocated_labels(offsets, labels, distance, sums.counts, active)
    groups = any_in_groups(moved != labels, offsets).nonzero().flatten().tolist()
    if groups:
        sums.renew(set(groups), moved)


def _assign(rows: HostRows, offsets: Tensor, centroids: Tensor) -> tuple[Tensor, Tensor]:
    labels = torch.empty(len(rows.x), dtype=torch.int32, device=offsets.device)
    distance = torch.empty(len(rows.x), dtype=centroids.dtype, device=offsets.device)
    for chunk, x in rows.read():
        labels[chunk.rows], distance[chunk.rows] = ops.kmeans_assign(x, chunk.offsets, centroids[chunk.groups])
    return labels, distance


def _mean_variance(rows: HostRows, offsets: Tensor) -> Tensor:
    sums = Sums(rows, offsets, 1)
    sums.add_all(torch.zeros(len(rows.x), dtype=torch.int32, device=offsets.device))
    _, distance = _assign(rows, offsets, sums.means(None))
    return sum_groups(distance, offsets) / (sums.counts.squeeze(1).clamp(min=1) * rows.x.shape[1])
