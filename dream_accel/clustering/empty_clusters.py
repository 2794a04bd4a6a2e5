"""Empty clusters: the rule that fills them, and the labels of the rows after it.

The rule is ``empty="farthest"`` of :func:`dream_accel.ops.kmeans_update`. The e-th empty cluster of a group takes the
row with the e-th largest distance to its own centroid. Rows at distance 0 and the member nearest each centroid never
move, so that no other cluster runs empty; where there are not enough such rows, a cluster keeps its previous centroid,
which is also what ``empty="keep"`` does.

Implementations: ``_relocate`` in ``backends/reference.py`` (the definition), ``fill_empty_clusters`` in
``csrc/cpu/kmeans_update.cpp``, ``move_to_empty_clusters`` in ``csrc/cuda/kmeans_members.cuh``, and ``fill_slots`` in
``kernels/slots.py`` (Triton). This module serves the fits that hold labels and distances but not all rows at once:
:mod:`.streaming` and :mod:`.gram`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .. import ops

LOW = 1 << 12
"""Row numbers are split into two numbers below this, each exact in float32."""


def relocated_labels(offsets: Tensor, labels: Tensor, distance: Tensor, counts: Tensor, active: Tensor) -> Tensor:
    """(N,) labels after the empty clusters of active groups have taken the farthest rows.

    The rule is that of kmeans_update, which is called to compute means of row numbers. A cluster that was empty and has
    one member afterwards has the number of that row as its mean.
    """
    n_rows, n_clusters = len(labels), counts.shape[1]
    digits = digits_of(torch.arange(n_rows, device=labels.device))
    nobody = torch.zeros(*counts.shape, 3, dtype=torch.float32, device=labels.device)
    means, after = ops.kmeans_update(
        digits,
        offsets,
        labels,
        n_clusters,
        distance=distance.float(),
        previous=nobody,
        active=active,
        empty="farthest",
    )
    row = number_of(means)
    took = (counts == 0) & (after == 1)
    # Clusters that took no row write to a place behind the last row.
    cluster = torch.arange(n_clusters, dtype=torch.int32, device=labels.device).expand_as(row)
    moved = torch.cat([labels, labels.new_zeros(1)])
    return moved.scatter(0, torch.where(took, row, n_rows).flatten(), cluster.flatten())[:n_rows]


def digits_of(number: Tensor) -> Tensor:
    """(..., 3) float32: whole numbers below 2^36 in parts that are exact in float32."""
    return torch.stack([number // LOW**2, number // LOW % LOW, number % LOW], dim=-1).float()


def number_of(digits: Tensor) -> Tensor:
    """(...) int64: the inverse of :func:`digits_of`."""
    high, middle, low = digits.to(torch.int64).unbind(-1)
    return (high * LOW + middle) * LOW + low
