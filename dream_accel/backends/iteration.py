"""Lloyd's iteration from single operators: on an accelerator, a fixed number of launches without a host round trip."""

from __future__ import annotations

from types import ModuleType

import torch
from torch import Tensor

from ..groups import any_in_groups
from ..runtime.devices import all_stopped


def iterate(
    backend: ModuleType,
    x: Tensor,
    offsets: Tensor,
    centroids: Tensor,
    max_iter: int,
    tolerance: Tensor | None,
    precision: str,
    empty: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """``kmeans_iterate`` by the ``kmeans_assign`` and ``kmeans_update`` of a backend.

    A group stops at its fixpoint. On an accelerator later launches skip it, so that the number of launches is fixed.
    """
    n_groups, start = len(offsets) - 1, centroids
    labels = torch.full((len(x),), -1, dtype=torch.int32, device=x.device)
    active = torch.ones(n_groups, dtype=torch.bool, device=x.device)
    fixed = torch.zeros_like(active)
    n_iter = torch.zeros(n_groups, dtype=torch.int32, device=x.device)

    for _ in range(max_iter):
        if all_stopped(active):
            break
        previous_labels, previous = labels, centroids
        labels, _ = backend.kmeans_assign(x, offsets, centroids, active, labels, None, precision, with_distance=False)
        # With unchanged labels the centroids are the means of exactly these members, which is a fixpoint.
        still, active = active, active & any_in_groups(labels != previous_labels, offsets)
        fixed |= still ^ active
        centroids, _ = backend.kmeans_update(x, offsets, labels, centroids.shape[1], None, previous, active, empty)
        n_iter += active
        if tolerance is not None:
            shift = (centroids - previous).square().nan_to_num(nan=0.0).sum(dim=(1, 2))
            active = active & (shift > tolerance)

    # At its fixpoint a group has the labels of its centroids, provided that they were computed at fp32.
    stale = ~fixed if precision == "fp32" else torch.ones_like(fixed)
    if not all_stopped(stale):
        labels, _ = backend.kmeans_assign(x, offsets, centroids, stale, labels, None, "fp32", with_distance=False)
    # An operator must not return its input, which is what is left after no iteration at all.
    return labels, centroids.clone() if centroids is start else centroids, n_iter
