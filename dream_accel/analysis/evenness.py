"""Evenness of a batch: the share of the sub-clusters of a reference K-Means that it touches, and its entropy.

Every class is clustered into as many sub-clusters as the batch has images, by a K-Means with a seed of its own, which
no strategy has part in. With ``p_k`` the share of the batch in sub-cluster k of K::

    touched = |{k : p_k > 0}| / K
    entropy = - sum over k of p_k log p_k / log K

Both are 1 for a batch with one image in each. DREAM (Liu et al., ICCV 2023) gives evenness as its reason: a random
batch leaves parts of the class out and has other parts several times.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ..data import DataSplit
from ..errors import DreamAccelError
from ..recipes import Recipe
from .along_training import along_training
from .picking import Picker, check_draws


@dataclass(frozen=True)
class Evenness:
    """The evenness of one batch of one class."""

    strategy: str
    batch: int
    """images of the class, and reference sub-clusters"""
    trained: int
    """real images the network was trained on before"""
    draw: int
    label: int
    """the class"""
    touched: float
    """share of the sub-clusters that the batch has an image of"""
    entropy: float
    """of the batch over the sub-clusters, 0 to 1"""


def evenness_of(labels: Tensor, n_clusters: int) -> tuple[float, float]:
    """Compute share and entropy of a batch.

    Args:
        labels: (n,) the sub-cluster 0..n_clusters-1 of every image.
        n_clusters: K, at least 2.

    Returns:
        the share of the sub-clusters touched, and the entropy divided by ``log K``.
    """
    p = torch.bincount(labels.long(), minlength=n_clusters).double() / len(labels)
    entropy = -torch.xlogy(p, p).sum().item() / math.log(n_clusters)
    return (p > 0).double().mean().item(), max(0.0, entropy)


def evenness(
    recipe: Recipe,
    split: DataSplit,
    *,
    strategies: tuple[str, ...] = ("random", "dream", "central", "boundary"),
    batches: tuple[int, ...] = (16, 32, 64),
    trained: tuple[int, ...] = (0, 2500),
    draws: int = 4,
) -> Iterator[Evenness]:
    """Measure the share of the sub-clusters of a reference K-Means that a batch touches, and its entropy.

    Args:
        recipe: network, its training, K-Means and seed.
        split: the data set, on the device where it is embedded.
        strategies: the strategies to compare.
        batches: sizes of a batch, images of a class; 2 at least.
        trained: real images the network is trained on before a measurement, ascending.
        draws: random draws of every batch.

    Yields:
        the evenness of every batch: by point of the training, size, strategy, draw and class.

    Raises:
        DreamAccelError: a strategy is unknown, a batch is a single image or larger than a class, or a number is out of
            range.
    """
    if min(batches) < 2:
        raise DreamAccelError(f"a batch has {min(batches)} images of a class, which is even in any way: give 2 or more")
    check_draws(draws)
    picker = Picker(recipe, split, strategies, batches)
    for seen, network in along_training(recipe, split, trained):
        picker.embed(network)
        for batch in batches:
            reference = picker.reference_labels(batch)
            for strategy in strategies:
                for draw in range(draws):
                    for c, places in enumerate(picker.positions(strategy, batch, draw)):
                        touched, entropy = evenness_of(reference[places], batch)
                        yield Evenness(strategy, batch, seen, draw, c, touched, entropy)
