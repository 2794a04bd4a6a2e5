"""The assembly of a run that matches trajectories: its parts, each after those that it depends on."""

from __future__ import annotations

from ..data import DataSplit
from ..matching.trajectories import StepSize, TrajectoryMatching, TrajectoryStep
from ..networks.batchnorm import refuse_statistics
from ..recipes import RECIPES, Recipe
from ..synthetic import check_packing
from .assembly import build_network, build_pixels
from .compute import Compute
from .expert_store import Experts
from .schedules import SCHEDULES
from .statistics import RealStatistics
from .stored_run import Checkpoint
from .trajectories import TrajectoryDistiller


def assemble_trajectories(
    recipe: Recipe, split: DataSplit, experts: Experts, state: Checkpoint | None = None
) -> TrajectoryDistiller:
    """Build a distillation by trajectories.

    Args:
        recipe: the settings.
        split: the data set, on the device where the run computes.
        experts: the experts, of the recipe's network and of this data set.
        state: the checkpoint to continue from; default: start from the recipe's initial images and step size.

    Returns:
        the distiller.

    Raises:
        DreamAccelError: settings do not fit the data set or the device.
    """
    check_packing(recipe.ipc, recipe.factor, split.train.shape[1:])
    compute = Compute.of(recipe, split)
    method = RECIPES[recipe.recipe]
    objective = method.objective(recipe)
    assert isinstance(objective, TrajectoryMatching)
    with compute.running():
        network = build_network(recipe, split, compute)
        refuse_statistics(network)
        statistics = RealStatistics(network, split, compute, recipe.seed)
        return TrajectoryDistiller(
            recipe,
            compute,
            network=network,
            experts=experts,
            pixels=build_pixels(recipe, split, compute, network, statistics, state),
            step_size=build_step_size(recipe, compute, state),
            matching=build_trajectory_step(recipe, compute, objective),
            schedule=SCHEDULES[method.SCHEDULE],
        )


def build_step_size(recipe: Recipe, compute: Compute, state: Checkpoint | None) -> StepSize:
    """Build the step size of the student, from the checkpoint or else from the recipe."""
    kept = None if state is None else state.step_size
    return StepSize(recipe.student_lr, recipe.student_lr_lr, recipe.pixel_momentum, compute.device, kept)


def build_trajectory_step(recipe: Recipe, compute: Compute, objective: TrajectoryMatching) -> TrajectoryStep:
    """Build the step that trains a student and differentiates its distance from an expert."""
    return TrajectoryStep(
        objective,
        recipe.synthetic_augment,
        compute.normalization,
        recipe.factor,
        compute.device,
        compute.channels_last,
    )
