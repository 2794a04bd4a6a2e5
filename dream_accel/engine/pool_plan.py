"""The expected size and cost of a cached run: entries of its pool, memory, steps per entry, and the part of filling.

Costs are counted in forward passes of one image through the network, in which a backward pass is two and the second
derivative of gradient matching doubles everything before it. They say nothing of clustering and of overheads, so the
part of filling is an estimate. More iterations, fewer ``stages``, ``draws`` or ``trajectories``, and a pool on disk
lower it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..groups import first_rows
from ..recipes import RECIPES, Recipe
from .distiller import Distiller
from .pool import DTYPES, size_in_bytes
from .pooled import active_trajectories

TRAINING, EMBEDDING = 3, 1
GRADIENTS, FEATURES = 3, 1
"""Passes of one real image of a target."""
THROUGH_GRADIENTS, THROUGH_FEATURES = 9, 2
"""Passes of one synthetic image of a step: the gradients, and the derivative through forward and backward pass; or the
features, and the derivative by the pixels alone."""


@dataclass(frozen=True)
class PoolPlan:
    """The pool of a cached run.

    Attributes:
        trajectories: the number that the whole run uses, those that replace others included.
        stored: how many of them are on disk.
        entries: states times augmentation draws, of all trajectories.
        steps: matching steps of the run.
        memory: of what is in memory at once, bytes.
        filling: cost of training, embedding and targets that are not on disk, image passes.
        matching: cost of the steps, image passes.
    """

    trajectories: int
    stored: int
    entries: int
    steps: int
    memory: int
    filling: int
    matching: int

    @property
    def part(self) -> float:
        """The expected part of filling in the cost of the run, 0 to 1."""
        return self.filling / max(self.filling + self.matching, 1)

    def __str__(self) -> str:
        disk = f", {self.stored} of them on disk" if self.stored else ""
        each = self.steps / max(self.entries, 1)
        per_entry = f"{each:,.0f}" if each >= 100 else f"{each:.3g}"
        return (
            f"pool: trajectories {self.trajectories}{disk}; entries {self.entries:,}, steps per entry "
            f"{per_entry}; {self.memory / 1e9:.3g} GB in memory; filling it is expected to be {100 * self.part:.2g} % "
            "of the run"
        )


def plan_pool(distiller: Distiller) -> PoolPlan:
    """Compute the plan of a run with ``real="cached"``.

    Args:
        distiller: the run, before its first iteration.
    """
    recipe, pool, train = distiller.recipe, distiller.pool, distiller.split.train
    steps = recipe.iterations * recipe.inner_steps
    used = active_trajectories(recipe, recipe.iterations - 1).stop if recipe.iterations else 0
    stored = 0 if pool.stored is None else sum(number in pool.stored for number in range(used))
    of_gradients = bool(distiller.matching.objective.parameters(distiller.network))
    at_most = (used - stored) * recipe.stages * recipe.draws
    real = len(train) if recipe.real_batch == "class" else train.n_classes * distiller.sampler.batch_size
    real *= GRADIENTS if of_gradients else FEATURES
    synthetic = train.n_classes * min(recipe.ipc * recipe.factor**2, recipe.max_synthetic)
    return PoolPlan(
        trajectories=used,
        stored=stored,
        entries=used * recipe.stages * recipe.draws,
        steps=steps,
        memory=min(recipe.trajectories, used - stored) * _bytes_of_trajectory(distiller),
        filling=(used - stored) * _passes_of_trajectory(distiller, len(train)) + min(at_most, steps) * real,
        matching=steps * synthetic * (THROUGH_GRADIENTS if of_gradients else THROUGH_FEATURES),
    )


def _passes_of_trajectory(distiller: Distiller, n_images: int) -> int:
    recipe = distiller.recipe
    clusterings = math.ceil(recipe.stages / recipe.interval) if distiller.sampler.strategy.needs_features else 0
    return TRAINING * trained_images(recipe, n_images) + EMBEDDING * clusterings * n_images


def trained_images(recipe: Recipe, n_images: int) -> int:
    """The number of real images that one trajectory trains on, by the schedule of its method."""
    schedule = RECIPES[recipe.recipe].SCHEDULE
    if schedule == "trained_on_real":
        return recipe.pretrain_epochs * n_images + (recipe.stages - 1) * recipe.network_images
    return recipe.stages * recipe.stage_epochs * n_images if schedule == "trained_pool" else 0


def _bytes_of_trajectory(distiller: Distiller) -> int:
    """The size of all states, picks and targets of a trajectory, from a target of one image of every class."""
    recipe, matching, sampler = distiller.recipe, distiller.matching, distiller.sampler
    classes = matching.classes
    rows = first_rows(*distiller.split.train.by_class(), 1)[classes.start : classes.stop]
    target = matching.target(distiller.network, sampler.images, rows, matching.draw_augmentations(matching.draws))
    picks = 8 * sampler.n_classes * sampler.batch_size if sampler.strategy.needs_features else 0
    state = size_in_bytes(list(distiller.network.state_dict().values())) + picks
    return recipe.stages * (state + recipe.draws * size_in_bytes(target) * DTYPES[recipe.pool_dtype].itemsize // 4)
