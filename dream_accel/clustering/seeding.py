"""Initial centroids of a fit: random rows, k-means++, the partition of an earlier fit, or given centroids."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import ops
from ..arrays import to_tensor
from ..errors import DreamAccelError
from ..groups import group_of_rows, random_rows
from ..random import derive_seed, uniform_rows


class Start(NamedTuple):
    """The kind of initial centroids, with the tensors that it needs on the device of the rows."""

    kind: str
    """``"random"``, ``"k-means++"``, ``"labels"`` or ``"centroids"``."""
    streams: Tensor | None = None
    """(1,) or (K,) int64, seeds of the random stream of ``"random"`` or of the K draws of ``"k-means++"``."""
    labels: Tensor | None = None
    """(N,) int32, the partition whose means are the initial centroids of ``"labels"``."""
    centroids: Tensor | None = None
    """(G, K, D), the initial centroids of ``"centroids"``, and those of clusters without a row in ``"labels"``."""


def random_start(kind: str, n_clusters: int, seed: int, device: torch.device) -> Start:
    """The start of ``"random"`` or ``"k-means++"``. The seed becomes a tensor, so one CUDA graph serves all seeds."""
    if kind == "random":
        streams = [derive_seed(seed, "kmeans init")]
    else:
        streams = [derive_seed(seed, "k-means++", k) for k in range(n_clusters)]
    return Start(kind, streams=torch.tensor(streams, dtype=torch.int64).to(device, non_blocking=True))


def given_start(init: Any, expected: tuple[int, int, int], dtype: torch.dtype, device: torch.device) -> Start:
    """The start at given centroids. Those that are not finite are dead.

    Raises:
        DreamAccelError: ``init`` is not an array of the expected shape (G, K, D), or exceeds ``dtype``.
    """
    given = to_tensor(init, "init").to(device)
    if tuple(given.shape) != expected:
        raise DreamAccelError(f"init has shape {tuple(given.shape)}: centroids must be (G, K, D) = {expected}")
    if given.is_complex() or given.dtype == torch.bool:
        raise DreamAccelError(f"init is {given.dtype}: centroids must be real numbers; convert with init.float()")
    centroids = given.to(dtype)
    if given.dtype == torch.float64 != dtype and bool((given.isfinite() & centroids.isinf()).any()):
        raise DreamAccelError(f"init holds numbers beyond {dtype}, in which x is clustered: pass x as float64")
    return Start("centroids", centroids=centroids)


def initial_centroids(x: Tensor, offsets: Tensor, n_clusters: int, start: Start) -> Tensor:
    """(G, K, D) centroids; NaN, that is dead, where a group has fewer rows than clusters."""
    if start.kind == "centroids":
        assert start.centroids is not None
        return start.centroids
    if start.kind == "labels":
        assert start.labels is not None
        return ops.kmeans_update(x, offsets, start.labels, n_clusters, previous=start.centroids)[0]

    def distance_to(picks: Tensor) -> Tensor:
        return ops.kmeans_assign(x, offsets, gather_rows(x, picks))[1]

    return gather_rows(x, draw_rows(offsets, len(x), n_clusters, start, distance_to))


def draw_rows(
    offsets: Tensor, n_rows: int, n_clusters: int, start: Start, distance_to: Callable[[Tensor], Tensor]
) -> Tensor:
    """(G, K) distinct rows as initial centroids, -1 where a group has fewer.

    Args:
        offsets: (G+1,) int64.
        n_rows: N.
        n_clusters: K.
        start: of kind ``"random"`` or ``"k-means++"``.
        distance_to: maps one row per group, (G, 1), to the (N,) squared distances of all rows to that of their group.
    """
    assert start.streams is not None
    if start.kind == "random":
        return random_rows(offsets, n_rows, n_clusters, start.streams[0])
    return _plus_plus_rows(offsets, n_rows, start.streams, distance_to)


def gather_rows(x: Tensor, rows: Tensor) -> Tensor:
    """(G, K, D) the given rows as centroids; NaN, that is dead, where the row is -1."""
    if len(x) == 0:
        return torch.full((*rows.shape, x.shape[1]), torch.nan, dtype=ops.result_dtype(x), device=x.device)
    centroids = x[rows.clamp(min=0)].to(ops.result_dtype(x))
    return centroids.masked_fill((rows < 0).unsqueeze(2), torch.nan)


def _plus_plus_rows(offsets: Tensor, n_rows: int, streams: Tensor, distance_to: Callable[[Tensor], Tensor]) -> Tensor:
    """(G, K) rows drawn one after another with probability proportional to the squared distance to those drawn before.

    The draw is a race of exponential clocks: the row with the smallest E_i / d_i is drawn, E_i exponential. A minimum
    needs no running sum, so a group's draw does not depend on the others, and there is no host round trip.
    """
    rows = torch.arange(n_rows, device=offsets.device)
    group = group_of_rows(offsets, n_rows)
    position = rows - offsets[group]
    weight: Tensor | None = None
    taken = torch.zeros(n_rows, dtype=torch.bool, device=offsets.device)
    picks: list[Tensor] = []
    for k in range(len(streams)):
        clock = -uniform_rows(position, streams[k]).log()
        # Duplicates of drawn rows have weight 0 and come last; drawn rows never come again.
        time = clock if weight is None else clock.to(weight.dtype) / weight
        time = time.clamp(max=torch.finfo(time.dtype).max).masked_fill(taken, torch.inf)
        row = _first_of_minimum(time, group, len(offsets) - 1)
        picks.append(row)
        taken = taken | (row[group] == rows)
        to_last = distance_to(row.unsqueeze(1))
        weight = to_last if weight is None else torch.minimum(weight, to_last)
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
