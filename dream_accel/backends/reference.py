"""The operators in plain PyTorch: the definition with which every other backend is compared.

Runs on any device. Float64 input is computed in float64, everything else in float32. Groups are computed one after
another and rows in chunks, so nothing of size rows x clusters is stored. This backend is for reading and comparing and
exempt from two rules: it reads on the host where groups begin, and on CUDA it adds up rows with atomics.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor

from ..groups import group_of_rows
from .formulas import compute_dtype, derivatives, plain_layers
from .iteration import iterate
from .norms import norm_relu_pool as norm_relu_pool
from .norms import norm_relu_pool_backward as norm_relu_pool_backward
from .norms import norm_relu_pool_double_backward as norm_relu_pool_double_backward
from .pairs import derivative_like

NAME = "reference"
CHUNK_ROWS = 4096


def unavailable() -> str | None:
    """Always usable."""
    return None


def refuses(op: str, *args: object) -> str | None:
    """Runs every call."""
    return None


def kmeans_assign(
    x: Tensor,
    offsets: Tensor,
    centroids: Tensor,
    active: Tensor | None,
    labels: Tensor | None,
    distance: Tensor | None,
    precision: str,
    with_distance: bool = True,
) -> tuple[Tensor, Tensor]:
    """Nearest live centroid of every row and the squared distance to it."""
    dtype = compute_dtype(x)
    new_labels = torch.zeros(len(x), dtype=torch.int32, device=x.device)
    new_distance = torch.full((len(x),), torch.inf, dtype=dtype, device=x.device)
    for group, rows in _spans(offsets):
        # Subtracting one vector from rows and centroids changes no distance, and keeps |c|^2 - 2 x.c from cancelling.
        own = centroids[group].to(dtype)
        live = torch.where(own.isfinite().all(dim=1, keepdim=True), own, torch.nan)
        centre = live.nanmean(dim=0)
        live = live - centre
        c_norm = live.square().sum(dim=1)
        for chunk in _chunks(rows):
            x_chunk = x[chunk].to(dtype)
            score = (c_norm - 2 * (x_chunk - centre) @ live.T).nan_to_num(
                nan=torch.inf, posinf=torch.inf, neginf=-torch.inf
            )
            nearest = score.argmin(dim=1)
            new_labels[chunk] = nearest.int()
            new_distance[chunk] = (
                (x_chunk - own[nearest]).square().sum(dim=1).nan_to_num(nan=torch.inf, posinf=torch.inf)
            )
    if active is not None:
        assert labels is not None
        keep = ~active[group_of_rows(offsets, len(x))]
        new_labels = torch.where(keep, labels, new_labels)
        if distance is not None:
            new_distance = torch.where(keep, distance.to(dtype), new_distance)
    return new_labels, new_distance if with_distance else new_distance[:0].clone()


def kmeans_update(
    x: Tensor,
    offsets: Tensor,
    labels: Tensor,
    n_clusters: int,
    distance: Tensor | None,
    previous: Tensor | None,
    active: Tensor | None,
    empty: str,
) -> tuple[Tensor, Tensor]:
    """Mean of every cluster's members and their number; empty clusters by policy."""
    n_groups = len(offsets) - 1
    valid = (labels >= 0) & (labels < n_clusters)
    cluster = group_of_rows(offsets, len(x)) * n_clusters + torch.where(valid, labels, 0).long()
    n_bins = n_groups * n_clusters
    if empty == "farthest":
        if distance is None:
            assert previous is not None
            distance = _distances_to_own(x, offsets, previous, labels)
        cluster = _relocate(cluster, valid, distance, offsets, n_clusters, active)

    # Rows that belong to no cluster are summed into one extra bin, which is dropped.
    cluster = torch.where(valid, cluster, n_bins)
    counts = torch.zeros(n_bins + 1, dtype=torch.int32, device=x.device)
    counts.index_add_(0, cluster, torch.ones_like(cluster, dtype=torch.int32))
    sums = torch.zeros(n_bins + 1, x.shape[1], dtype=torch.float64, device=x.device)
    for chunk in _chunks(slice(0, len(x))):
        sums.index_add_(0, cluster[chunk], x[chunk].double())
    shape = (n_groups, n_clusters, x.shape[1])
    counts = counts[:-1].view(n_groups, n_clusters)
    means = (sums[:-1].view(shape) / counts.unsqueeze(2)).to(compute_dtype(x))

    fallback = torch.full_like(means, torch.nan) if previous is None else previous.to(means.dtype)
    means = torch.where(counts.unsqueeze(2) > 0, means, fallback)
    if active is not None:
        means = torch.where(active.view(-1, 1, 1), means, fallback)
    return means, counts


kmeans_iterate = partial(iterate, sys.modules[__name__])


def nearest_members(x: Tensor, offsets: Tensor, centroids: Tensor, labels: Tensor, n: int) -> Tensor:
    """The ``n`` members nearest each centroid; free slots go to the unpicked rows nearest their own centroid."""
    n_groups, n_clusters, _ = centroids.shape
    picks = torch.full((n_groups, n_clusters, n), -1, dtype=torch.int64, device=x.device)
    for group, rows in _spans(offsets):
        distance = _distance_to_own(x, rows, centroids[group], labels)
        by_distance = torch.argsort(distance, stable=True)
        label = labels[rows].long()
        own = torch.where((label >= 0) & (label < n_clusters), label, n_clusters)
        by_cluster = by_distance[torch.argsort(own[by_distance], stable=True)]
        rank = _rank_in_run(own[by_cluster])
        picked = (rank < n) & (own[by_cluster] < n_clusters)
        slots = picks[group].view(-1)
        slots[(own[by_cluster] * n + rank)[picked]] = by_cluster[picked] + rows.start

        unpicked = torch.ones(len(label), dtype=torch.bool, device=x.device)
        unpicked[by_cluster[picked]] = False
        spare = by_distance[unpicked[by_distance]] + rows.start
        free = (slots < 0).nonzero().squeeze(1)[: len(spare)]
        slots[free] = spare[: len(free)]
    return picks


def group_products(a: Tensor, a_offsets: Tensor, x: Tensor, offsets: Tensor, centre: Tensor, width: int) -> Tensor:
    """Products of the rows ``a`` of every group with its rows ``x``, both relative to ``centre``."""
    out = torch.zeros((len(a), width), dtype=torch.float32, device=a.device)
    own = dict(_spans(a_offsets))
    for group, rows in _spans(offsets):
        if group in own:
            # In float64, so that a rounded entry does not depend on its neighbours.
            products = (a[own[group]] - centre[group]).double() @ (x[rows] - centre[group]).double().T
            out[own[group], : rows.stop - rows.start] = products.float()
    return out


def gram_assign(products: Tensor, norms: Tensor, offsets: Tensor, active: Tensor, labels: Tensor) -> Tensor:
    """Nearest live centroid of every row, from products alone."""
    new_labels = labels.clone()
    for group, rows in _spans(offsets):
        if active[group]:
            score = norms[group].unsqueeze(1) - 2 * products[group, :, : rows.stop - rows.start]
            new_labels[rows] = score.nan_to_num(nan=torch.inf, posinf=torch.inf).argmin(dim=0).int()
    return new_labels


def gradient_distance(
    real: list[Tensor], synthetic: list[Tensor], metric: str, per_class: bool, with_grads: bool
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Distance between two lists of gradients, of every class and layer, and its derivative in the second list."""
    per_layer = plain_layers(real, synthetic, metric, per_class)
    grads = derivatives(real, synthetic, metric, per_class) if with_grads else []
    results = [derivative_like(y, per_class, 0).copy_(g) for y, g in zip(synthetic, grads, strict=False)]
    return per_layer.sum(dim=1), per_layer, results


def feature_distance(
    real: list[Tensor], synthetic: list[Tensor], metric: str, per_class: bool, with_grads: bool
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """The same between batch means; the derivative is that in every member of a synthetic batch."""
    xs, ys = ([_batch_mean(t, per_class) for t in side] for side in (real, synthetic))
    per_layer = plain_layers(xs, ys, metric, per_class)
    grads = derivatives(xs, ys, metric, per_class) if with_grads else []
    lead = int(per_class)
    results = [
        # The formulas treat a flat feature as one row; the result has no dimension for it.
        (g / y.shape[lead]).reshape(*y.shape[:lead], *y.shape[lead + 1 :]).to(y.dtype)
        for y, g in zip(synthetic, grads, strict=False)
    ]
    return per_layer.sum(dim=1), per_layer, results


def scale_gradients(gradients: list[Tensor], scale: Tensor, per_class: bool) -> list[Tensor]:
    """Every tensor times its column of ``scale`` (G, L), class by class."""
    columns = scale.unbind(dim=1)
    if not per_class:
        return [(g * s[0].to(compute_dtype(g))).to(g.dtype) for g, s in zip(gradients, columns, strict=True)]
    by_class = [s.to(compute_dtype(g)).view(-1, *[1] * (g.dim() - 1)) for g, s in zip(gradients, columns, strict=True)]
    return [(g * s).to(g.dtype) for g, s in zip(gradients, by_class, strict=True)]


def _batch_mean(features: Tensor, per_class: bool) -> Tensor:
    """Mean over the images of a batch; a flat feature becomes a single row."""
    mean = features.to(compute_dtype(features)).mean(dim=int(per_class))
    return mean if mean.dim() > 1 + per_class else mean.unsqueeze(int(per_class))


def _relocate(
    cluster: Tensor, valid: Tensor, distance: Tensor, offsets: Tensor, n_clusters: int, active: Tensor | None
) -> Tensor:
    """Move the rows farthest from their centroids, one to each empty cluster of their group."""
    cluster = cluster.clone()
    for group, rows in _spans(offsets):
        if active is not None and not active[group]:
            continue
        own = torch.where(valid[rows], cluster[rows] - group * n_clusters, n_clusters)
        counts = torch.bincount(own, minlength=n_clusters + 1)[:n_clusters]
        empty = (counts == 0).nonzero().squeeze(1)
        if len(empty) == 0:
            continue
        far = torch.argsort(distance[rows], descending=True, stable=True)
        anchors = _anchors(own, distance[rows])
        movable = valid[rows] & (distance[rows] > 0) & ~anchors
        moved = far[movable[far]][: len(empty)]
        cluster[moved + rows.start] = group * n_clusters + empty[: len(moved)]
    return cluster


def _anchors(own: Tensor, distance: Tensor) -> Tensor:
    """True for the member nearest each cluster's centroid, which stays so that the cluster is not left empty."""
    near = torch.argsort(distance, stable=True)
    near = near[torch.argsort(own[near], stable=True)]
    first = _rank_in_run(own[near]) == 0
    anchors = torch.zeros(len(own), dtype=torch.bool, device=own.device)
    anchors[near[first]] = True
    return anchors


def _distances_to_own(x: Tensor, offsets: Tensor, centroids: Tensor, labels: Tensor) -> Tensor:
    parts = [_distance_to_own(x, rows, centroids[group], labels) for group, rows in _spans(offsets)]
    return torch.cat([*parts, torch.zeros(0, dtype=compute_dtype(x), device=x.device)])


def _distance_to_own(x: Tensor, rows: slice, centroids: Tensor, labels: Tensor) -> Tensor:
    dtype = compute_dtype(x)
    n_clusters = len(centroids)
    distance = torch.full((rows.stop - rows.start,), torch.inf, dtype=dtype, device=x.device)
    for chunk in _chunks(rows):
        label = labels[chunk].long()
        valid = (label >= 0) & (label < n_clusters)
        own = (x[chunk].to(dtype) - centroids[torch.where(valid, label, 0)].to(dtype)).square().sum(dim=1)
        own = torch.where(valid, own, torch.inf).nan_to_num(nan=torch.inf, posinf=torch.inf)
        distance[chunk.start - rows.start : chunk.stop - rows.start] = own
    return distance


def _rank_in_run(sorted_keys: Tensor) -> Tensor:
    """Position of every element within its run of equal keys: [3, 3, 5, 5, 5] -> [0, 1, 0, 1, 2]."""
    first = torch.searchsorted(sorted_keys, sorted_keys)
    return torch.arange(len(sorted_keys), device=sorted_keys.device) - first


def _spans(offsets: Tensor) -> Iterator[tuple[int, slice]]:
    bounds = offsets.tolist()
    for group, (start, stop) in enumerate(pairwise(bounds)):
        if stop > start:
            yield group, slice(start, stop)


def _chunks(rows: slice) -> Iterator[slice]:
    for start in range(rows.start, rows.stop, CHUNK_ROWS):
        yield slice(start, min(start + CHUNK_ROWS, rows.stop))
