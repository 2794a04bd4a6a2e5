"""Schedules: the order of matching steps and network updates within one outer iteration."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .distillation import Schedule
from .distiller import Distiller
from .pooled import Epochs, Fresh, PooledSteps, Updates
from .trajectories import TrajectoryDistiller


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


class MatchedTrajectories:
    """Steps that each match one part of the trajectory of one expert (MTT)."""

    def run(self, distiller: TrajectoryDistiller, on_step: Callable[[], None]) -> Tensor:
        """Draw an expert and a start epoch, and match, ``inner_steps`` times."""
        total = torch.zeros((), device=distiller.device)
        for _ in range(distiller.recipe.inner_steps):
            total += distiller.match()
            on_step()
        return total / distiller.recipe.inner_steps

    def real_images(self, distiller: TrajectoryDistiller) -> int:
        """Return 0: real images are read when the experts are trained."""
        return 0


def _matched(distiller: Distiller) -> int:
    return distiller.recipe.inner_steps * distiller.sampler.batch_size * distiller.split.train.n_classes


SCHEDULES: dict[str, Schedule[Any]] = {
    "trained_on_real": TrainedOnReal(),
    "trained_on_synthetic": TrainedOnSynthetic(),
    "fresh_networks": FreshNetworks(),
    "trained_pool": PooledSteps(Epochs()),
    "trajectories": MatchedTrajectories(),
}
"""Every schedule by the name that recipes use."""

CACHED: dict[str, Schedule] = {
    "trained_on_real": PooledSteps(Updates()),
    "fresh_networks": PooledSteps(Fresh()),
    "trained_pool": PooledSteps(Epochs()),
}
"""The schedule that replaces each of these where the real side of the steps is cached."""


def find_schedule(name: str, real: str) -> Schedule:
    """Return the schedule of that name, for a real side that is ``"live"`` or ``"cached"``."""
    return (CACHED if real == "cached" else SCHEDULES)[name]
