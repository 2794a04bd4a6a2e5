"""Schedules: the order of matching steps and network updates within one outer iteration."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..networks.training import Rows
from ..random import generator
from .distiller import Distiller, Schedule


class TrainedOnReal:
    """Matching steps on a network that is trained on real images between them (IDC, DREAM, DREAM+)."""

    def run(self, distiller: Distiller, on_step: Callable[[], None]) -> Tensor:
        """Train for ``pretrain_epochs``, then alternate matching and training ``inner_steps`` times."""
        recipe = distiller.recipe
        distiller.train(recipe.pretrain_epochs * len(distiller.split.train))
        total = torch.zeros((), device=distiller.device)
        for _ in range(recipe.inner_steps):
            distiller.sampler.update(distiller.network)
            total += distiller.match()
            distiller.train(recipe.network_images)
            on_step()
        return total / recipe.inner_steps

    def real_images(self, distiller: Distiller) -> int:
        """Count the real batches and the training images of every step, and the images of the pretraining epochs."""
        recipe = distiller.recipe
        trained = recipe.pretrain_epochs * len(distiller.split.train)
        return _matched(distiller) + recipe.inner_steps * recipe.network_images + trained


class TrainedOnSynthetic:
    """Matching steps on a network that is trained on the synthetic set between them (DC, DSA)."""

    def run(self, distiller: Distiller, on_step: Callable[[], None]) -> Tensor:
        """Alternate matching and ``synthetic_epochs`` of training; after the last step nothing is trained."""
        recipe = distiller.recipe
        total = torch.zeros((), device=distiller.device)
        for step in range(recipe.inner_steps):
            distiller.sampler.update(distiller.network)
            total += distiller.match()
            if step + 1 < recipe.inner_steps:
                distiller.train_on_synthetic(recipe.synthetic_epochs)
            on_step()
        return total / recipe.inner_steps

    def real_images(self, distiller: Distiller) -> int:
        """Count the real batches of every step."""
        return _matched(distiller)


class FreshNetworks:
    """Matching steps on a new random network each, which is not trained (DM)."""

    def run(self, distiller: Distiller, on_step: Callable[[], None]) -> Tensor:
        """Initialise the network and match, ``inner_steps`` times."""
        recipe = distiller.recipe
        total = torch.zeros((), device=distiller.device)
        for step in range(recipe.inner_steps):
            if step > 0:
                distiller.initialize_network(step)
            distiller.sampler.update(distiller.network)
            total += distiller.match()
            on_step()
        return total / recipe.inner_steps

    def real_images(self, distiller: Distiller) -> int:
        """Count the real batches of every step."""
        return _matched(distiller)


class TrainedPool:
    """Matching steps on states of networks that were trained on real images once, at their first use (DM+)."""

    def run(self, distiller: Distiller, on_step: Callable[[], None]) -> Tensor:
        """Match ``inner_steps`` times, each on the next state in a random order of all those of the pool.

        Iteration t uses the states of the first t + 1 trajectories, up to ``trajectories``, and trains those that the
        pool does not have yet: one for each of the first iterations, or all of them after a run was resumed.
        """
        recipe, pool = distiller.recipe, distiller.pool
        known = min(distiller.iteration + 1, recipe.trajectories)
        for number in range(len(pool) // recipe.stages, known):
            self._train(distiller, number)
        distiller.restart(distiller.iteration)
        order = Rows(known * recipe.stages, generator(recipe.seed, "pool", distiller.iteration))
        total = torch.zeros((), device=distiller.device)
        for entry in order.take(recipe.inner_steps).tolist():
            pool.load(entry)
            total += distiller.match()
            on_step()
        return total / recipe.inner_steps

    def _train(self, distiller: Distiller, number: int) -> None:
        recipe = distiller.recipe
        distiller.pool.truncate(number * recipe.stages)  # a trajectory that was interrupted is trained again
        distiller.begin_trajectory(number)
        for stage in range(recipe.stages):
            distiller.train(recipe.stage_epochs * len(distiller.split.train))
            distiller.pool.keep("trajectory", number, stage)

    def real_images(self, distiller: Distiller) -> int:
        """Count the real batches of every step; the training of the trajectories is not of one iteration."""
        return _matched(distiller)


def _matched(distiller: Distiller) -> int:
    return distiller.recipe.inner_steps * distiller.sampler.batch_size * distiller.sampler.n_classes


SCHEDULES: dict[str, Schedule] = {
    "trained_on_real": TrainedOnReal(),
    "trained_on_synthetic": TrainedOnSynthetic(),
    "fresh_networks": FreshNetworks(),
    "trained_pool": TrainedPool(),
}
"""Every schedule by the name that recipes use."""
