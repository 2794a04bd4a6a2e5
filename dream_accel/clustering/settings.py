"""What a fit is asked for, and what it returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor


@dataclass(frozen=True)
class LloydSettings:
    """What a fit is asked for."""

    n_clusters: int
    """K per group."""
    max_iter: int
    """Iterations at most."""
    tol: float
    """Squared shift of the centroids, over the mean variance of the features, that stops a group."""
    precision: str
    """Of the products that decide labels while iterating."""
    empty: str
    """What an empty cluster does."""
    gram: bool = False
    """Whether small groups are fitted on their Gram matrices."""


class Fit(NamedTuple):
    """The result of a fit; all belong together."""

    labels: Tensor
    """(N,) int32"""
    centroids: Tensor
    """(G, K, D)"""
    counts: Tensor
    """(G, K) int32"""
    n_iter: Tensor
    """(G,) int32"""
