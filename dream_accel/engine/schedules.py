"""Schedules: the order of matching steps and network updates within one outer iteration."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

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
        matched = distiller.sampler.batch_size * distiller.sampler.n_classes
        trained = recipe.pretrain_epochs * len(distiller.split.train)
        return recipe.inner_steps * (matched + recipe.network_images) + trained


SCHEDULES: dict[str, Schedule] = {"trained_on_real": TrainedOnReal()}
"""Every schedule by the name that recipes use."""
