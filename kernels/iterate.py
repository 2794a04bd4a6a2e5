"""Steps of Lloyd's iteration in seven launches, or ten where empty clusters are filled."""

from __future__ import annotations

import torch
from torch import Tensor

from .assign import kmeans_assign
from .common import dense
from .members import Progress
from .prepare import TileMaps
from .update import empty_live, kmeans_update


class LloydSteps:
    """The steps of an iteration over groups of rows, which share what depends on the rows alone.

    An assignment notes the groups that have a new label, for the update; an update notes the centroids that are live,
    for the next assignment.

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

    def assign(self, centroids: Tensor, active: Tensor, labels: Tensor, precision: str) -> Tensor:
        """Labels of the rows of active groups, as :func:`kmeans_assign`; it is noted which groups have new ones."""
        args = self._x, self._offsets, centroids, active, labels, None, precision
        live = self._updated[1] if self._updated is not None and self._updated[0] is centroids else None
        return kmeans_assign(*args, with_distance=False, changed=self._changed, maps=self._maps, live=live)[0]

    def update(
        self, labels: Tensor, before: Tensor, previous: Tensor, active: Tensor, fixed: Tensor, n_iter: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Centroids (G, K, D), as :func:`kmeans_update`, of the active groups that :meth:`assign` gave a new label.

        The other active groups are added to ``fixed``, (G,) bool, and these counted in ``n_iter``, (G,) int32.

        Returns:
            The centroids and which groups they are new in, (G,) bool.
        """
        progress = Progress(self._changed, active, torch.empty_like(active), fixed, n_iter)
        live = empty_live(previous)
        args = self._x, self._offsets, labels, previous.shape[1], None, previous, None, self._empty
        centroids, _ = kmeans_update(*args, maps=self._maps, progress=progress, live=live)
        self._updated = centroids, live
        return centroids, progress.going
