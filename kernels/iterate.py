"""Steps of Lloyd's iteration in seven launches, or ten where empty clusters are filled."""

from __future__ import annotations

import torch
from torch import Tensor

from . import tiles
from .assign import kmeans_assign
from .common import dense
from .members import Members, Progress
from .prepare import TileMaps
from .shift import shifted_means
from .update import empty_live, member_means, membership


class LloydSteps:
    """The steps of an iteration over groups of rows, which share what depends on the rows alone.

    An assignment notes the groups that have a new label, for the update; an update notes the centroids that are live,
    for the next assignment. Most updates of long rows read only those whose label has changed, and add them to the
    sums of the update before.

    Args:
        x: (N, D) float32, float16 or bfloat16.
        offsets: (G+1,) int64.
        empty: as in :func:`kmeans_update`.
    """

    def __init__(self, x: Tensor, offsets: Tensor, empty: str) -> None:
        self._x, self._offsets, self._empty = dense(x), dense(offsets), empty
        self._maps = TileMaps(self._offsets, len(x))
        self._changed = torch.zeros(len(offsets) - 1, dtype=torch.int8, device=x.device)
        self._updated: tuple[Tensor, Tensor] | None = None
        self._sums: Tensor | None = None
        self._members: Members | None = None
        self._updates = 0

    def assign(self, centroids: Tensor, active: Tensor, labels: Tensor, precision: str) -> Tensor:
        """Labels of the rows of active groups, as :func:`kmeans_assign`; it is noted which groups have new ones."""
        args = self._x, self._offsets, centroids, active, labels, None, precision
        live = self._updated[1] if self._updated is not None and self._updated[0] is centroids else None
        return kmeans_assign(*args, with_distance=False, changed=self._changed, maps=self._maps, live=live)[0]

    def update(
        self, labels: Tensor, before: Tensor, previous: Tensor, active: Tensor, fixed: Tensor, n_iter: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Centroids (G, K, D), as :func:`.update.kmeans_update`, of the active groups with a new label.

        The other active groups are added to ``fixed``, (G,) bool, and these counted in ``n_iter``, (G,) int32.

        Returns:
            The centroids and which groups they are new in, (G,) bool.
        """
        if not len(active):
            return previous.clone(), active
        previous = dense(previous)
        progress = Progress(self._changed, active, torch.empty_like(active), fixed, n_iter)
        live, n_clusters = empty_live(previous), previous.shape[1]
        args = self._x, self._offsets, labels, n_clusters, None, previous, None, self._empty, self._maps, progress
        found = membership(*args)
        if self._updates % tiles.FULL_EVERY and self._members is not None and self._sums is not None:
            rows = labels, before, found.members, self._members
            centroids = shifted_means(self._x, *rows, self._sums, previous, progress.going, found.moved, live)
        else:
            if self._sums is None and self._x.shape[1] >= tiles.SHIFTED_FEATURES:
                self._sums = torch.empty(previous.shape, dtype=torch.float64, device=previous.device)
            centroids, _ = member_means(self._x, found, previous, self._sums, live)
        self._updates += 1
        self._members = found.members
        self._updated = centroids, live
        return centroids, progress.going
