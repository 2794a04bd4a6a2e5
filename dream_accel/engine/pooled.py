"""Matching steps through the networks of a pool: the schedule, and the kinds of trajectory that fill the pool."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from ..networks.training import Rows
from ..random import generator
from ..recipes.settings import Recipe
from .distiller import Distiller


class Trajectory(Protocol):
    """A way from one state of a network to the next."""

    def advance(self, distiller: Distiller, number: int, stage: int, /) -> None:
        """Change the network of trajectory ``number``, whose first state is ``stage`` 0, into that of the stage."""
        ...


class Updates:
    """The networks of an outer iteration of IDC or DREAM: one update on real images between two states."""

    def advance(self, distiller: Distiller, number: int, stage: int) -> None:
        """Train for ``pretrain_epochs`` before the first state, and on ``network_images`` before every other one."""
        recipe = distiller.recipe
        images = recipe.network_images if stage else recipe.pretrain_epochs * len(distiller.split.train)
        distiller.train(images)


class Epochs:
    """Networks that are trained for ``stage_epochs`` before every state (DM+)."""

    def advance(self, distiller: Distiller, number: int, stage: int) -> None:
        """Train for ``stage_epochs``."""
        distiller.train(distiller.recipe.stage_epochs * len(distiller.split.train))


class Fresh:
    """Random networks, each drawn anew and not trained (DM)."""

    def advance(self, distiller: Distiller, number: int, stage: int) -> None:
        """Draw the network."""
        distiller.begin_trajectory(number, stage)


class PooledSteps:
    """Matching steps, each through a network of the pool, which is filled as the outer iterations go on.

    An iteration uses the networks of ``trajectories`` trajectories at most. One comes in every ``fill_interval``
    iterations until all are there; with ``renew`` the oldest gives way to a new one every ``renew`` iterations after
    that. Only those that the pool does not have, in memory or on disk, are trained: one in an iteration, or all of them
    after a run was resumed. A stored trajectory is the one that would be trained, so when it is found there changes no
    pixel.

    Args:
        trajectory: leads from one state to the next.
    """

    def __init__(self, trajectory: Trajectory) -> None:
        self.trajectory = trajectory

    def run(self, distiller: Distiller, on_step: Callable[[], None]) -> Tensor:
        """Match ``inner_steps`` times, each time the next in a random order of everything that the pool offers."""
        recipe = distiller.recipe
        active = active_trajectories(recipe, distiller.iteration)
        self._fill(distiller, active)
        draws = recipe.draws if recipe.real == "cached" else 1
        order = Rows(len(active) * recipe.stages * draws, generator(recipe.seed, "pool", distiller.iteration))
        total = torch.zeros((), device=distiller.device)
        for entry in order.take(recipe.inner_steps).tolist():
            state, draw = divmod(entry, draws)
            number, stage = divmod(state, recipe.stages)
            if recipe.real == "cached":
                total += distiller.match_target(*distiller.pool.target(active[number], stage, draw))
            else:
                distiller.pool.load(active[number], stage)
                total += distiller.match()
            on_step()
        return total / recipe.inner_steps

    def _fill(self, distiller: Distiller, active: range) -> None:
        pool = distiller.pool
        pool.keep_only(active)
        missing = distiller.trained_together([number for number in active if number not in pool])
        for number in missing:
            self.train(distiller, number)
        if missing:
            distiller.restart(distiller.iteration)

    def train(self, distiller: Distiller, number: int) -> None:
        """Train a trajectory and add its states to the pool in memory."""
        distiller.begin_trajectory(number)
        for stage in range(distiller.recipe.stages):
            self.trajectory.advance(distiller, number, stage)
            distiller.pool.add(number)

    def real_images(self, distiller: Distiller) -> int:
        """Count the real images behind every step; the training of the trajectories is not of one iteration."""
        return distiller.recipe.inner_steps * distiller.sampler.batch_size * distiller.split.train.n_classes


def active_trajectories(recipe: Recipe, iteration: int) -> range:
    """Return the numbers of the trajectories that an outer iteration uses."""
    full = recipe.trajectories - 1
    first = max(0, iteration - full * recipe.fill_interval) // recipe.renew if recipe.renew else 0
    return range(first, first + min(iteration // recipe.fill_interval, full) + 1)
