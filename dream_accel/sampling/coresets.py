"""Coresets: rows of every class chosen one after another, herding and K-center greedy, all classes in one batch.

Every pick of both follows from distances to one point per class, so a step is one call of ``kmeans_assign`` with a
single centroid. The first pick is the row nearest the mean of the class, ties go to the lowest row, and nothing is
drawn at random.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .. import ops
from ..groups import group_of_rows
from .strategies import to_class_mean


def herding(x: Tensor, offsets: Tensor, k: int) -> Tensor:
    """Pick rows whose running mean follows the mean of the class.

    With the class mean ``m`` and the rows ``p_1 ... p_t`` picked so far, the next one is::

        p_{t+1} = argmin_x | m - (x + p_1 + ... + p_t) / (t + 1) |

    among the rows that are left. Sources: Welling, *Herding dynamical weights to learn*, ICML 2009; Rebuffi et al.,
    *iCaRL*, CVPR 2017, arXiv 1611.07725, which divides features by their norm first: pass such features for that.

    Args:
        x: (N, D) floating point, finite, class after class.
        offsets: (C+1,) int64, at which each class begins.
        k: rows per class.

    Returns:
        (C, k) int64 row indices in the order picked; -1 where a class has no row left.
    """
    mean, _ = to_class_mean(x, offsets)
    # |(t + 1) m - p_1 - ... - p_t - x| is the distance of x to this target, m - sum_j (p_j - m). The sum stays as small
    # as herding makes it, where the two sums that it replaces grow with t.
    ahead = torch.zeros_like(mean[:, 0], dtype=torch.float64)
    greedy = _Greedy(offsets, len(x))
    for _ in range(k):
        target = (mean[:, 0] - ahead).to(mean.dtype)
        picks = greedy.take_lowest(ops.kmeans_assign(x, offsets, target.unsqueeze(1))[1])
        ahead += torch.where(picks.unsqueeze(1) < 0, 0, x[picks].double() - mean[:, 0])
    return greedy.picks()


def k_center(x: Tensor, offsets: Tensor, k: int) -> Tensor:
    """Pick rows farthest first, so that every row of the class has a picked one near it.

    The first pick is the row nearest the class mean. Each of the others is the row whose nearest picked one is farthest
    away::

        p_{t+1} = argmax_x min_j | x - p_j |

    The largest distance of a row to its nearest picked one is then at most twice the smallest possible. Sources:
    Gonzalez, *Clustering to minimize the maximum intercluster distance*, 1985; Sener and Savarese, *Active learning for
    convolutional neural networks: a core-set approach*, ICLR 2018, arXiv 1708.00489.

    Args:
        x: (N, D) floating point, finite, class after class.
        offsets: (C+1,) int64, at which each class begins.
        k: rows per class.

    Returns:
        (C, k) int64 row indices in the order picked; -1 where a class has no row left.
    """
    greedy = _Greedy(offsets, len(x))
    picks = greedy.take_lowest(to_class_mean(x, offsets)[1])
    nearest: Tensor | None = None
    for _ in range(k - 1):
        centre = x[picks].unsqueeze(1).to(ops.result_dtype(x))
        distance = ops.kmeans_assign(x, offsets, centre)[1]
        nearest = distance if nearest is None else torch.minimum(nearest, distance)
        picks = greedy.take_lowest(-nearest)
    return greedy.picks()


class _Greedy:
    """Rows taken from every group one at a time, without a host round trip."""

    def __init__(self, offsets: Tensor, n_rows: int) -> None:
        self._offsets = offsets
        self._group = group_of_rows(offsets, n_rows)
        self._rows = torch.arange(n_rows, device=offsets.device)
        self._taken = torch.zeros(n_rows, dtype=torch.bool, device=offsets.device)
        self._picks: list[Tensor] = []

    def take_lowest(self, values: Tensor) -> Tensor:
        """(G,) the row with the lowest value of those left in each group, ties to the lowest row; -1 without one."""
        values = values.masked_fill(self._taken, torch.inf)
        lowest = torch.segment_reduce(values, "min", offsets=self._offsets, initial=torch.inf, unsafe=True)
        # Values may be infinite themselves where squares overflow, so taken rows are left out by name.
        found = (values == lowest[self._group]) & ~self._taken
        beyond = len(self._rows)
        first = torch.full_like(self._offsets[:-1], beyond)
        first.scatter_reduce_(0, self._group, torch.where(found, self._rows, beyond), "amin")
        picks = torch.where(first < beyond, first, -1)
        self._taken |= self._rows == picks[self._group]
        self._picks.append(picks)
        return picks

    def picks(self) -> Tensor:
        """(G, n) the rows taken, in order."""
        return torch.stack(self._picks, dim=1)
