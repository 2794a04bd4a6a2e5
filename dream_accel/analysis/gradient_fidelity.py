"""Gradient fidelity: the error of a batch's gradient against the gradient of its whole class.

A matching step compares the synthetic images with a batch of a class in place of the whole class. With ``g_i`` the
gradient of the cross-entropy of image i in the matched layers, without augmentation, the error of a batch B of class c
is::

    error = | 1/|B| sum over i in B of g_i  -  1/|c| sum over i in c of g_i | / | 1/|c| sum over i in c of g_i |

in the Euclidean norm over all matched parameters. A random batch of n of N images has an error that falls as
``sqrt((1 - n/N) / n)``, so that batches of a strategy whose error is a factor r smaller are worth random ones about
``r^2`` times as large, while n is small beside N.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from ..data import DataSplit
from ..recipes import Recipe
from .along_training import along_training
from .gradients import matched_parameters, real_gradient, rows_of_class
from .picking import Picker, check_draws


@dataclass(frozen=True)
class Fidelity:
    """The error of one batch of one class."""

    strategy: str
    batch: int
    """images of the class"""
    trained: int
    """real images the network was trained on before"""
    draw: int
    label: int
    """the class"""
    error: float
    """relative error of the batch's gradient"""
    norm: float
    """norm of the gradient of the whole class"""


def gradient_fidelity(
    recipe: Recipe,
    split: DataSplit,
    *,
    strategies: tuple[str, ...] = ("random", "dream", "central", "boundary"),
    batches: tuple[int, ...] = (16, 32, 64),
    trained: tuple[int, ...] = (0, 500, 2500, 10000),
    draws: int = 4,
) -> Iterator[Fidelity]:
    """Measure the error of a batch's gradient against the gradient of its whole class.

    Args:
        recipe: network, its training, matched layers, K-Means and seed.
        split: the data set, on the device where gradients are computed.
        strategies: the strategies to compare.
        batches: sizes of a batch, images of a class.
        trained: real images the network is trained on before a measurement, ascending.
        draws: random draws of every batch.

    Yields:
        the error of every batch: by point of the training, strategy, size, draw and class.

    Raises:
        DreamAccelError: a strategy is unknown, a batch is larger than a class, or a number is out of range.
    """
    check_draws(draws)
    picker = Picker(recipe, split, strategies, batches)
    classes = range(split.train.n_classes)
    for seen, network in along_training(recipe, split, trained):
        picker.embed(network)
        parameters = matched_parameters(network, recipe.layers)
        whole = torch.stack([real_gradient(network, parameters, split, rows_of_class(split, c), c) for c in classes])
        norms = whole.norm(dim=1)
        for strategy in strategies:
            for batch in batches:
                for draw in range(draws):
                    picks = picker.pick(strategy, batch, draw)
                    own = torch.stack([real_gradient(network, parameters, split, picks[c], c) for c in classes])
                    errors = (own - whole).norm(dim=1) / norms
                    for c, error, norm in zip(classes, errors.tolist(), norms.tolist(), strict=True):
                        yield Fidelity(strategy, batch, seen, draw, c, error, norm)
