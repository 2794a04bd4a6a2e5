"""Accuracy of several runs that differ in how real images are sampled, at some outer iterations."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from ..data import DataSplit
from ..engine.assembly import matches_trajectories
from ..engine.loop import Run
from ..errors import DreamAccelError
from ..evaluation import evaluate
from ..recipes import Recipe


@dataclass(frozen=True)
class RunAccuracy:
    """The accuracy of one run after some outer iterations."""

    strategy: str
    init: str
    clusters: int
    """sub-clusters per class (N)"""
    per_cluster: int
    """images per sub-cluster (n)"""
    batch: int
    """images of a class per step, N n"""
    interval: int
    """steps between two clusterings"""
    seed: int
    iteration: int
    """outer iterations done"""
    accuracy: float
    """percent, mean over networks"""
    std: float
    """over the same networks, percentage points"""
    networks: int
    seconds: float
    """of the distillation"""


def run_accuracies(
    variants: Iterable[Recipe], split: DataSplit, at: Sequence[int], seeds: int
) -> Iterator[RunAccuracy]:
    """Distil by every recipe with every seed, and evaluate on the way.

    Args:
        variants: the recipes; ``iterations`` is the last outer iteration if ``at`` is empty.
        split: the data set, on the device where the runs compute.
        at: outer iterations after which networks are trained and tested; empty for the first images and the last ones.
        seeds: number of seeds, counted from that of the recipe.

    Yields:
        one accuracy by seed, recipe and iteration.

    Raises:
        DreamAccelError: a method matches trajectories, an iteration is negative, or a recipe does not fit the data set.
    """
    variants = list(variants)
    check_draws_batches(variants)
    if any(iteration < 0 for iteration in at) or seeds < 1:
        raise DreamAccelError(f"at is {tuple(at)} and seeds {seeds}: give iterations from 0 on and at least 1 seed")
    for number in range(seeds):
        for variant in variants:
            stops = sorted(set(at)) or sorted({0, variant.iterations})
            yield from _accuracies(replace(variant, seed=variant.seed + number, iterations=stops[-1]), split, stops)


def check_draws_batches(variants: Iterable[Recipe]) -> None:
    """Refuse methods that match no batches of real images.

    Raises:
        DreamAccelError: a method matches trajectories.
    """
    for variant in variants:
        if matches_trajectories(variant):
            raise DreamAccelError(
                f"recipe {variant.recipe!r} matches trajectories, and this figure compares batches of real images: "
                "choose a recipe that matches them, such as dream"
            )


def _accuracies(recipe: Recipe, split: DataSplit, stops: Sequence[int]) -> Iterator[RunAccuracy]:
    run = Run(recipe, split)
    for stop in stops:
        while len(run.history) < stop:
            run.advance()
        evaluation = evaluate(run.result(), split, device=split.test.device)
        yield RunAccuracy(
            recipe.strategy,
            recipe.init,
            recipe.n_clusters,
            recipe.per_cluster,
            recipe.n_clusters * recipe.per_cluster,
            recipe.interval,
            recipe.seed,
            stop,
            evaluation.mean,
            evaluation.std,
            len(evaluation.accuracies),
            run.history[-1].seconds if run.history else 0.0,
        )
