"""Accuracy of matching only central or only boundary images, beside random images and DREAM's.

The paper (Liu et al., ICCV 2023) reports that runs which match only the images nearest the class mean, or only those
farthest from it, end below random sampling: central images have small gradients and say little, boundary
images scatter.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from ..data import DataSplit
from ..recipes import Recipe
from ..sampling.strategies import find_strategy
from .sweep import RunAccuracy, run_accuracies


def central_boundary(
    recipe: Recipe,
    split: DataSplit,
    *,
    strategies: tuple[str, ...] = ("dream", "random", "central", "boundary"),
    at: tuple[int, ...] = (),
    seeds: int = 1,
) -> Iterator[RunAccuracy]:
    """Measure the accuracy of runs that match only central or only boundary images, random ones, or DREAM's.

    Args:
        recipe: everything but the strategy, the same for all runs.
        split: the data set, on the device where the runs compute.
        strategies: the strategies to compare.
        at: outer iterations to evaluate at; empty for the first images and the last ones.
        seeds: number of seeds.

    Yields:
        the accuracy of every run and iteration.

    Raises:
        DreamAccelError: a strategy is unknown, or as :func:`dream_accel.analysis.sweep.run_accuracies`.
    """
    for name in strategies:
        find_strategy(name)
    yield from run_accuracies([replace(recipe, strategy=name) for name in strategies], split, at, seeds)
