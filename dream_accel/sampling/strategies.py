"""Strategies of a matching loop, which pick rows of every class at every step or refresh."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .. import ops
from ..clustering import BatchedKMeans
from ..errors import DreamAccelError, choices
from ..groups import first_rows, random_rows, sort_within_groups


@dataclass(frozen=True)
class Strategy:
    """A rule that picks rows of every class.

    Attributes:
        pick: ``(features, offsets, clusters, per_cluster, seed, max_iter) -> (C, n)``: features (N, D) ordered class
            after class, as :func:`dream_accel.clustering.scaled_rows` returns them, and int64 offsets (C+1,) to int64
            row indices, ``n = clusters * per_cluster``; -1 where a class has too few rows.
        needs_features: True if features are read; a strategy that reads none also accepts row numbers (N, 1).
        uses: the settings of a recipe that this strategy reads and others do not.
    """

    pick: Callable[[Tensor, Tensor, int, int, int, int], Tensor]
    needs_features: bool = True
    uses: frozenset[str] = frozenset(("interval", "refresh_images"))


def _pick_dream(x: Tensor, offsets: Tensor, n_clusters: int, per_cluster: int, seed: int, max_iter: int) -> Tensor:
    km = BatchedKMeans(n_clusters, max_iter=max_iter, seed=seed).fit(x, offsets, check=False)
    return km.representatives(per_cluster)


def _pick_random(x: Tensor, offsets: Tensor, n_clusters: int, per_cluster: int, seed: int, max_iter: int) -> Tensor:
    return random_rows(offsets, len(x), n_clusters * per_cluster, seed, "random sampling")


def _pick_central(x: Tensor, offsets: Tensor, n_clusters: int, per_cluster: int, seed: int, max_iter: int) -> Tensor:
    _, distance = to_class_mean(x, offsets)
    return first_rows(sort_within_groups(distance, offsets), offsets, n_clusters * per_cluster)


def _pick_boundary(x: Tensor, offsets: Tensor, n_clusters: int, per_cluster: int, seed: int, max_iter: int) -> Tensor:
    _, distance = to_class_mean(x, offsets)
    return first_rows(sort_within_groups(distance, offsets, descending=True), offsets, n_clusters * per_cluster)


def to_class_mean(x: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
    """(C, 1, D) the mean of every class, and (N,) the squared distance of every row to that of its class."""
    one_cluster = torch.zeros(len(x), dtype=torch.int32, device=x.device)
    mean, _ = ops.kmeans_update(x, offsets, one_cluster, 1)
    return mean, ops.kmeans_assign(x, offsets, mean)[1]


STRATEGIES = {
    "dream": Strategy(_pick_dream, uses=frozenset(("interval", "kmeans_iterations", "refresh_images"))),
    "random": Strategy(_pick_random, needs_features=False, uses=frozenset()),
    "central": Strategy(_pick_central),
    "boundary": Strategy(_pick_boundary),
}
"""``dream``: the images nearest the centres of a K-Means of the class. ``random``: distinct images, drawn again at
every step. ``central`` and ``boundary``: the images nearest the mean of the class, and those farthest from it."""


ONCE_ONLY = ("kmeans", "herding", "k-center", "forgetting")
"""Names that choose a set once and are refused in matching: ``kmeans`` is ``dream`` there; herding and K-center greedy
read a class as many times as they pick images, and forgetting trains a network first."""
STRATEGY_SETTINGS = frozenset[str]().union(*(strategy.uses for strategy in STRATEGIES.values()))
"""The settings of a recipe that only some strategies read."""


def find_strategy(name: str) -> Strategy:
    """Return the strategy of that name.

    Raises:
        DreamAccelError: no strategy has that name; the message lists those that exist.
    """
    if name not in STRATEGIES:
        raise unknown_strategy(name)
    return STRATEGIES[name]


def unknown_strategy(name: object) -> DreamAccelError:
    """Make the refusal of a name that is no strategy of a matching loop."""
    if name not in ONCE_ONLY:
        return choices("strategy", name, STRATEGIES)
    return DreamAccelError(
        f"strategy {name!r} chooses a set once, by `dream-accel select` or --baselines: to match at every step choose "
        f"one of {', '.join(STRATEGIES)}" + (" (dream is K-Means)" if name == "kmeans" else "")
    )
