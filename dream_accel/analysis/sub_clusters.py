"""Accuracy against the number of sub-clusters N, and against the images n taken of each, at equal batch.

The paper (Liu et al., ICCV 2023) varies N over 32, 64, 128 and 256: 32 falls, because the picks are too central, and
256 falls slightly, because it is nearly random; n has little effect. A batch of B images has ``N = B / n``
sub-clusters, so that runs of equal B see as many real images.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from ..data import DataSplit
from ..recipes import Recipe
from .picking import check_batches
from .sweep import RunAccuracy, run_accuracies


def sub_clusters(
    recipe: Recipe,
    split: DataSplit,
    *,
    batches: tuple[int, ...] = (16, 32, 64, 96),
    per_cluster: tuple[int, ...] = (1, 4),
    at: tuple[int, ...] = (),
    seeds: int = 1,
) -> Iterator[RunAccuracy]:
    """Measure the accuracy of runs with several numbers of sub-clusters, and images per sub-cluster.

    Args:
        recipe: everything else, the same for all runs.
        split: the data set, on the device where the runs compute.
        batches: real images of a class per step, of which each sub-cluster gives ``per_cluster``.
        per_cluster: images per sub-cluster.
        at: outer iterations to evaluate at; empty for the last.
        seeds: number of seeds.

    Yields:
        the accuracy of every run and iteration.

    Raises:
        DreamAccelError: a batch is larger than a class or not a multiple of ``per_cluster``, or as
            :func:`dream_accel.analysis.sweep.run_accuracies`.
    """
    for n in per_cluster:
        check_batches(n, split, batches)
    variants = [replace(recipe, batch=0, clusters=batch // n, per_cluster=n) for n in per_cluster for batch in batches]
    yield from run_accuracies(variants, split, at or (recipe.iterations,), seeds)
