"""Inertia of a clustering that reads some images of a class instead of all, as ``refresh_images`` lets a refresh do.

K-Means places its centres in ``images`` of the n_c images of class c, drawn at random; its inertia is that of all of
them::

    sum over all i of class c of  min_k |x_i - c_k|^2

divided by that of centres placed in all of them, the mean over the draws. It is 1 where nothing is lost.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from .. import ops
from ..clustering import BatchedKMeans
from ..data import DataSplit
from ..errors import DreamAccelError
from ..groups import sum_groups
from ..random import derive_seed
from ..recipes import Recipe
from ..sampling.pool import Pools
from .along_training import along_training
from .picking import Picker, check_draws


@dataclass(frozen=True)
class Inertia:
    """The inertia of one clustering of one class."""

    images: int
    """images of the class that were clustered"""
    trained: int
    """real images the network was trained on before"""
    draw: int
    label: int
    """the class"""
    inertia: float
    """of all its images, relative to a clustering of all"""


def refresh_images(
    recipe: Recipe,
    split: DataSplit,
    *,
    images: tuple[int, ...] = (64, 80, 96, 112),
    trained: tuple[int, ...] = (0, 2500),
    draws: int = 4,
) -> Iterator[Inertia]:
    """Measure the inertia of clusterings that read some images of every class.

    Args:
        recipe: network, its training, ``clusters``, K-Means and seed.
        split: the data set, on the device where it is embedded.
        images: numbers of images of a class that are clustered; at least ``clusters``, at most a class.
        trained: real images the network is trained on before a measurement, ascending.
        draws: random draws of the images and of the initial centres.

    Yields:
        the inertia of every clustering: by point of the training, number, draw and class.

    Raises:
        DreamAccelError: a number is out of range.
    """
    check_draws(draws)
    sizes = split.train.class_counts().tolist()
    if min(images) < recipe.n_clusters or max(images) > min(sizes):
        raise DreamAccelError(
            f"images is {', '.join(map(str, images))}: give numbers from {recipe.n_clusters}, the clusters of a class, "
            f"to {min(sizes)}, the images of the smallest class; fewer clusters allow fewer"
        )
    picker = Picker(recipe, split, (), ())
    for seen, network in along_training(recipe, split, trained):
        picker.embed(network)
        of_all = sum(_inertia(recipe, picker, sizes, max(sizes), draw) for draw in range(draws)) / draws
        for number in images:
            for draw in range(draws):
                relative = _inertia(recipe, picker, sizes, number, draw) / of_all
                for label, value in enumerate(relative.tolist()):
                    yield Inertia(number, seen, draw, label, value)


def _inertia(recipe: Recipe, picker: Picker, sizes: list[int], number: int, draw: int) -> Tensor:
    """(C,) float64, of all images to the centres of a clustering of ``number`` of every class."""
    x, offsets = picker.features(), picker.offsets
    seed = derive_seed(recipe.seed, "analysis refresh", draw)
    pools = Pools(sizes, number, x.device)
    km = BatchedKMeans(recipe.n_clusters, max_iter=recipe.kmeans_iterations, seed=seed)
    km.fit(x[pools.draw(offsets, seed)], pools.offsets, check=False)
    _, distance = ops.kmeans_assign(x, offsets, torch.as_tensor(km.cluster_centers_))
    return sum_groups(distance.double(), offsets)
