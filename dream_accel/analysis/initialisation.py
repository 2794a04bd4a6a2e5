"""Accuracy over the iterations from several initial images.

The paper (Liu et al., ICCV 2023) compares its clustering initialisation with random real images and with noise: it
begins higher, and still ends above.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from ..data import DataSplit
from ..recipes import Recipe
from .sweep import RunAccuracy, run_accuracies


def initialisation(
    recipe: Recipe,
    split: DataSplit,
    *,
    init: tuple[str, ...] = ("kmeans", "random", "noise"),
    at: tuple[int, ...] = (),
    seeds: int = 1,
) -> Iterator[RunAccuracy]:
    """Measure the accuracy of runs from several initial images.

    Args:
        recipe: everything else, the same for all runs.
        split: the data set, on the device where the runs compute.
        init: names of :data:`dream_accel.synthetic.INITS`.
        at: outer iterations to evaluate at; empty for the first images and the last ones.
        seeds: number of seeds.

    Yields:
        the accuracy of every run and iteration.

    Raises:
        DreamAccelError: an initialisation is unknown, or as :func:`dream_accel.analysis.sweep.run_accuracies`.
    """
    yield from run_accuracies([replace(recipe, init=name) for name in init], split, at, seeds)
