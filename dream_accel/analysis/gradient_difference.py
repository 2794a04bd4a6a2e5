"""Gradient difference over training: the distance of the synthetic gradients from those of the batch and the class.

After a matching step, through the network as it is and without augmentation::

    to_batch = sum over classes of d(grad CE(batch_c), grad CE(synthetic_c))
    to_class = sum over classes of d(grad CE(class_c), grad CE(synthetic_c))

with ``d`` the squared Euclidean distance over the matched layers. The paper (Liu et al., ICCV 2023) shows the first,
which is small and stable with DREAM's picks. A strategy can make it small by picking images that are easy to match, so
the second, whose target no strategy chooses, is beside it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch

from ..data import DataSplit
from ..engine.assembly import assemble
from ..engine.distiller import Distiller
from ..errors import DreamAccelError
from ..recipes import RECIPES, Recipe
from ..sampling.strategies import find_strategy
from ..synthetic import decode
from .gradients import matched_parameters, mean_gradient, real_gradient, rows_of_class
from .sweep import check_draws_batches


@dataclass(frozen=True)
class Difference:
    """The gradient difference after one inner step."""

    strategy: str
    seed: int
    step: int
    """inner steps done, over all outer iterations"""
    to_batch: float
    """squared distance from the gradients of the batch, summed over classes"""
    to_class: float
    """the same from the gradients of whole classes"""


def gradient_difference(
    recipe: Recipe,
    split: DataSplit,
    *,
    strategies: tuple[str, ...] = ("dream", "random", "central", "boundary"),
    every: int = 5,
    seeds: int = 1,
) -> Iterator[Difference]:
    """Measure the distance of the synthetic gradients from those of the batch and of the whole class, over training.

    Args:
        recipe: everything but the strategy, the same for all runs.
        split: the data set, on the device where the runs compute.
        strategies: the strategies to compare.
        every: inner steps between two measurements.
        seeds: number of seeds.

    Yields:
        the differences of every run, after each of its outer iterations.

    Raises:
        DreamAccelError: a strategy is unknown, the method matches trajectories or caches its real side, or a number is
            below 1.
    """
    for name in strategies:
        find_strategy(name)
    check_draws_batches([recipe])
    if recipe.real == "cached" or RECIPES[recipe.recipe].SCHEDULE == "trained_pool":
        raise DreamAccelError(
            f"recipe {recipe.recipe!r} with real {recipe.real!r} picks its batches before the steps, and this figure "
            "reads the batch of every step: choose dream or another recipe, with real live"
        )
    if every < 1 or seeds < 1:
        raise DreamAccelError(f"every is {every} and seeds {seeds}: both are at least 1")
    for number in range(seeds):
        for name in strategies:
            distiller = assemble(replace(recipe, strategy=name, seed=recipe.seed + number), split)
            for iteration in range(recipe.iterations):
                watch = _Watch(distiller, iteration, every)
                distiller.outer_iteration(iteration, watch.after_step)
                distiller.check()
                yield from watch.found


class _Watch:
    """Measures during one outer iteration, which ends with a measurement."""

    def __init__(self, distiller: Distiller, iteration: int, every: int) -> None:
        self.found: list[Difference] = []
        self._distiller = distiller
        self._every = every
        self._before = iteration * distiller.recipe.inner_steps
        self._done = 0

    def after_step(self) -> None:
        self._done += 1
        if self._done % self._every == 0 or self._done == self._distiller.recipe.inner_steps:
            self.found.append(_difference(self._distiller, self._before + self._done))


def _difference(distiller: Distiller, step: int) -> Difference:
    split, network, recipe = distiller.split, distiller.network, distiller.recipe
    parameters = matched_parameters(network, recipe.layers)
    indices = distiller.sampler.indices
    assert indices is not None
    to_batch = to_class = torch.zeros((), dtype=torch.float64, device=distiller.device)
    for c, own in enumerate(distiller.pixels.pixels.detach()):
        images = split.normalization(decode(own, recipe.factor))
        synthetic = mean_gradient(network, parameters, [images], c)
        to_batch = to_batch + (real_gradient(network, parameters, split, indices[c], c) - synthetic).square().sum()
        whole = real_gradient(network, parameters, split, rows_of_class(split, c), c)
        to_class = to_class + (whole - synthetic).square().sum()
    return Difference(recipe.strategy, recipe.seed, step, float(to_batch), float(to_class))
