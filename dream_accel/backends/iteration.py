"""Lloyd's iteration: on an accelerator, a fixed number of launches without a host round trip."""

from __future__ import annotations

from types import ModuleType
from typing import Protocol

import torch
from torch import Tensor

from ..groups import any_in_groups
from ..runtime.devices import all_stopped


class Steps(Protocol):
    """The steps of an iteration over groups of rows that stay the same."""

    def assign(self, centroids: Tensor, active: Tensor, labels: Tensor, precision: str) -> Tensor:
        """Return the labels (N,) int32 of the rows of active groups; the others keep ``labels``."""
        ...

    def update(
        self, labels: Tensor, before: Tensor, previous: Tensor, active: Tensor, fixed: Tensor, n_iter: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the centroids (G, K, D) of the active groups with changed labels, and which these are, (G,) bool.

        The other groups keep ``previous``. Of the active ones, those unchanged are added to ``fixed``, (G,) bool, and
        those changed counted in ``n_iter``, (G,) int32.
        """
        ...


class SingleOperators:
    """The steps by the operators of a backend."""

    def __init__(self, backend: ModuleType, x: Tensor, offsets: Tensor, empty: str) -> None:
        self._backend, self._x, self._offsets, self._empty = backend, x, offsets, empty

    def assign(self, centroids: Tensor, active: Tensor, labels: Tensor, precision: str) -> Tensor:
        """See :class:`Steps`."""
        args = self._x, self._offsets, centroids, active, labels, None, precision
        return self._backend.kmeans_assign(*args, with_distance=False)[0]

    def update(
        self, labels: Tensor, before: Tensor, previous: Tensor, active: Tensor, fixed: Tensor, n_iter: Tensor
    ) -> tuple[Tensor, Tensor]:
        """See :class:`Steps`."""
        going = active & any_in_groups(labels != before, self._offsets)
        fixed |= active ^ going
        n_iter += going
        args = self._x, self._offsets, labels, previous.shape[1], None, previous, going, self._empty
        return self._backend.kmeans_update(*args)[0], going


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
    """``kmeans_iterate`` by the ``kmeans_assign`` and ``kmeans_update`` of a backend."""
    return lloyd(SingleOperators(backend, x, offsets, empty), len(x), centroids, max_iter, tolerance, precision)


def lloyd(
    steps: Steps, n_rows: int, centroids: Tensor, max_iter: int, tolerance: Tensor | None, precision: str
) -> tuple[Tensor, Tensor, Tensor]:
    """``kmeans_iterate`` by these steps.

    A group stops at its fixpoint. On an accelerator later launches skip it, so that the number of launches is fixed.
    """
    start = centroids
    labels = torch.full((n_rows,), -1, dtype=torch.int32, device=centroids.device)
    active = torch.ones(len(centroids), dtype=torch.bool, device=centroids.device)
    fixed = torch.zeros_like(active)
    n_iter = torch.zeros(len(centroids), dtype=torch.int32, device=centroids.device)

    for _ in range(max_iter):
        if all_stopped(active):
            break
        before, previous = labels, centroids
        labels = steps.assign(centroids, active, labels, precision)
        # With unchanged labels the centroids are the means of exactly these members, which is a fixpoint.
        centroids, active = steps.update(labels, before, previous, active, fixed, n_iter)
        if tolerance is not None:
            shift = (centroids - previous).square().nan_to_num(nan=0.0).sum(dim=(1, 2))
            active = active & (shift > tolerance)

    # At its fixpoint a group has the labels of its centroids, provided that they were computed at fp32.
    stale = ~fixed if precision == "fp32" else torch.ones_like(fixed)
    if not all_stopped(stale):
        labels = steps.assign(centroids, stale, labels, "fp32")
    # An operator must not return its input, which is what is left after no iteration at all.
    return labels, centroids.clone() if centroids is start else centroids, n_iter
