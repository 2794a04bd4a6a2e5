"""Accuracy and duration against the clustering interval I, the inner steps between two refreshes of the picks.

The paper (Liu et al., ICCV 2023) takes I = 10: picks that are renewed more often cost a clustering each time, and picks
that are kept for long were chosen by a network that has been trained on since.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from ..data import DataSplit
from ..recipes import Recipe
from .sweep import RunAccuracy, run_accuracies


def clustering_interval(
    recipe: Recipe,
    split: DataSplit,
    *,
    interval: tuple[int, ...] = (1, 5, 10, 20),
    at: tuple[int, ...] = (),
    seeds: int = 1,
) -> Iterator[RunAccuracy]:
    """Measure the accuracy and the duration of runs with several clustering intervals.

    Args:
        recipe: everything else, the same for all runs.
        split: the data set, on the device where the runs compute.
        interval: inner steps between two clusterings.
        at: outer iterations to evaluate at; empty for the last.
        seeds: number of seeds.

    Yields:
        the accuracy of every run and iteration.

    Raises:
        DreamAccelError: an interval is below 1, or as :func:`dream_accel.analysis.sweep.run_accuracies`.
    """
    variants = [replace(recipe, interval=steps) for steps in interval]
    yield from run_accuracies(variants, split, at or (recipe.iterations,), seeds)
