"""Settings and results of a fit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor


@dataclass(frozen=True)
class LloydSettings:
    """Settings of a fit."""

    n_clusters: int
    """K per group."""
    max_iter: int
    """Largest number of iterations."""
    tol: float
    """A group stops when the squared shift of its centroids over its mean feature variance is at most this."""
    precision: str
    """Of the products that decide labels while iterating."""
    empty: str
    """Policy for empty clusters."""
    gram: bool = False
    """Fit small groups on their Gram matrices."""


class Fit(NamedTuple):
    """Results of a fit; all are of the same centroids."""

    labels: Tensor
    """(N,) int32"""
    centroids: Tensor
    """(G, K, D)"""
    counts: Tensor
    """(G, K) int32"""
    n_iter: Tensor
    """(G,) int32"""
