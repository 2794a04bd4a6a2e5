"""Picks of one class: the images that every strategy takes for its batch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ..data import DataSplit
from ..errors import DreamAccelError
from ..recipes import Recipe
from .along_training import along_training
from .picking import Picker


@dataclass(frozen=True)
class Pick:
    """One pick of a strategy."""

    strategy: str
    label: int
    """the class"""
    rank: int
    """place in the batch"""
    index: int
    """row of the training set"""


def picks(
    recipe: Recipe,
    split: DataSplit,
    *,
    strategies: tuple[str, ...] = ("dream", "random", "central", "boundary"),
    batch: int = 16,
    trained: int = 2500,
    label: int = 0,
) -> Iterator[Pick]:
    """List the images of one class that every strategy picks.

    Args:
        recipe: network, its training, K-Means and seed.
        split: the data set, on the device where it is embedded.
        strategies: the strategies to compare.
        batch: images picked.
        trained: real images the network is trained on before.
        label: the class, 0 to C-1.

    Yields:
        the picks of every strategy, in its order.

    Raises:
        DreamAccelError: a strategy is unknown, the batch is larger than a class, or there is no such class.
    """
    if not 0 <= label < split.train.n_classes:
        raise DreamAccelError(f"class {label} does not exist: classes are 0 to {split.train.n_classes - 1}")
    picker = Picker(recipe, split, strategies, (batch,))
    for _, network in along_training(recipe, split, (trained,)):
        picker.embed(network)
        for strategy in strategies:
            for rank, index in enumerate(picker.pick(strategy, batch)[label].tolist()):
                yield Pick(strategy, label, rank, index)
