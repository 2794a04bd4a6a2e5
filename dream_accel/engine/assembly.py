"""The assembly of a run: builds its parts from the recipe, each after the parts that it depends on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..data import DataSplit
from ..errors import DreamAccelError
from ..groups import first_rows
from ..matching.choice import choose_implementation
from ..matching.class_gradients import CLASS_GRADIENTS, refusal
from ..matching.objective import Objective
from ..matching.pixels import PixelSGD
from ..matching.step import MatchingStep, Watch
from ..matching.trajectories import TrajectoryMatching
from ..networks import initialize, make_network
from ..networks.features import embed_rows, images_at_a_time
from ..networks.parts import BatchParts
from ..networks.training import Trainer
from ..random import derive_seed
from ..recipes import RECIPES, Recipe
from ..runtime.distributed import ALONE, Ranks
from ..sampling import RepresentativeSampler
from ..sampling.classes import fill_picks
from ..synthetic import check_packing, initial_images
from .compute import Compute
from .distiller import Distiller
from .pool import NetworkPool
from .pool_store import pool_for
from .schedules import find_schedule
from .statistics import RealStatistics
from .stored_run import Checkpoint
from .synthetic_training import SyntheticTraining


def matches_trajectories(recipe: Recipe) -> bool:
    """Return whether the method matches the trajectories of experts, which it then needs, and not real images."""
    return isinstance(RECIPES[recipe.recipe].objective(recipe), TrajectoryMatching)


def assemble(
    recipe: Recipe,
    split: DataSplit,
    state: Checkpoint | None = None,
    ranks: Ranks = ALONE,
    parts: int = 1,
    watch: Watch | None = None,
) -> Distiller:
    """Build a distillation.

    Args:
        recipe: the settings.
        split: the data set, on the device where the run computes.
        state: the checkpoint to continue from; default: start from the recipe's initial images.
        ranks: the processes that share the classes.
        parts: divides the number of images that are computed at a time, where the device has too little memory.
        watch: looks at every match, as in :class:`dream_accel.matching.step.MatchingStep`.

    Returns:
        the distiller; its ``recipe`` names the chosen class-gradient implementation.

    Methods that match trajectories are assembled by :mod:`dream_accel.engine.trajectory_assembly`.

    Raises:
        DreamAccelError: settings do not fit the data set or the device.
    """
    check_packing(recipe.ipc, recipe.factor, split.train.shape[1:])
    compute = Compute.of(recipe, split, ranks, parts)
    with compute.running():
        return _assembled(recipe, split, compute, state, watch)


def _assembled(
    recipe: Recipe, split: DataSplit, compute: Compute, state: Checkpoint | None, watch: Watch | None
) -> Distiller:
    method = RECIPES[recipe.recipe]
    objective = method.objective(recipe)
    assert not isinstance(objective, TrajectoryMatching)
    network = build_network(recipe, split, compute)
    statistics = RealStatistics(network, split, compute, recipe.seed)
    sampler = build_sampler(recipe, split, compute, network)
    pixels = build_pixels(recipe, split, compute, network, statistics, state)
    recipe = decide_class_gradients(recipe, split, compute, objective, network, sampler, pixels, state)
    matching = build_matching(recipe, split, compute, objective, watch)
    return Distiller(
        recipe,
        split,
        compute,
        network=network,
        statistics=statistics,
        trainer=build_trainer(recipe, compute, network),
        synthetic_training=build_synthetic_training(recipe, split, compute, network, pixels),
        sampler=sampler,
        matching=matching,
        pixels=pixels,
        pool=NetworkPool(recipe, split.train, network, sampler, matching, compute, pool_for(recipe, split)),
        schedule=find_schedule(method.SCHEDULE, recipe.real),
    )


def build_network(recipe: Recipe, split: DataSplit, compute: Compute) -> nn.Module:
    """Build the network, which every outer iteration initialises again."""
    shape, n_classes = split.train.shape, split.train.n_classes
    depth = recipe.depth_for(shape)
    return compute.placed(make_network(recipe.network, shape, n_classes, recipe.width, depth, 0, **recipe.layer_kinds))


def build_trainer(recipe: Recipe, compute: Compute, network: nn.Module) -> Trainer:
    """Build the trainer that trains the network on real images."""
    return Trainer(
        network,
        compute.normalization,
        lr=recipe.network_lr,
        momentum=recipe.network_momentum,
        weight_decay=recipe.weight_decay,
        augment=recipe.train_augment,
        cutmix_probability=recipe.cutmix,
        device=compute.device,
        seed=recipe.seed,
        keys=("init",),
        channels_last=compute.channels_last,
        parts=BatchParts(recipe.network_parts, compute.ranks),
    )


def build_synthetic_training(
    recipe: Recipe, split: DataSplit, compute: Compute, network: nn.Module, pixels: PixelSGD
) -> SyntheticTraining:
    """Build the training of the network on the synthetic set: plain SGD, as in DC and DSA."""
    trainer = Trainer(
        network,
        compute.normalization,
        lr=recipe.network_lr,
        momentum=0.0,
        weight_decay=0.0,
        augment=recipe.synthetic_augment,
        cutmix_probability=0.0,
        device=compute.device,
        seed=recipe.seed,
        keys=("synthetic", "init"),
        channels_last=compute.channels_last,
    )
    shape = (split.train.n_classes, *pixels.pixels.shape[1:])
    return SyntheticTraining(
        trainer, compute, shape, recipe.factor, recipe.synthetic_batch, recipe.network_lr, recipe.seed
    )


def pixel_rate(recipe: Recipe, split: DataSplit, device: torch.device) -> float | Tensor:
    """The learning rate of the pixels, by ``pixel_lr_rule``; (channels, 1, 1) where it depends on the channel."""
    if recipe.pixel_lr_rule == "normalized":
        std = torch.tensor(split.normalization.std, device=device).view(-1, 1, 1)
        return recipe.pixel_lr * std.square()
    return recipe.pixel_lr_for(split.train.shape)


def build_sampler(recipe: Recipe, split: DataSplit, compute: Compute, network: nn.Module) -> RepresentativeSampler:
    """Build the sampler of real images, which embeds by a function recorded as a CUDA graph."""

    at_a_time = max(1, images_at_a_time(compute.device) // compute.parts)

    def embed(rows: Tensor, *, images: Tensor) -> Tensor:
        with compute.autocast():
            return embed_rows(images, rows, network, compute.prepared, at_a_time)

    recorded = compute.recorded(embed, ("images",))
    return RepresentativeSampler(
        split.train.images,
        split.train.labels,
        recipe.n_clusters,
        recipe.per_cluster,
        recipe.interval,
        recipe.strategy,
        seed=recipe.seed,
        max_iter=recipe.kmeans_iterations,
        pool=recipe.refresh_images or None,
        embed=lambda _, images, rows: recorded(rows, images=images),
        classes=compute.classes,
    )


def build_pixels(
    recipe: Recipe,
    split: DataSplit,
    compute: Compute,
    network: nn.Module,
    statistics: RealStatistics,
    state: Checkpoint | None,
) -> PixelSGD:
    """Build the synthetic images and their optimiser, from the checkpoint or else from the recipe's initial images."""
    own = slice(compute.classes.start, compute.classes.stop)
    velocity: Tensor | None = None
    if state is None:
        start = _initial_images(recipe, split, compute, network, statistics)[own].clone()
    else:
        start, velocity = (kept[own].to(compute.device, copy=True) for kept in (state.pixels, state.velocity))
    lr = pixel_rate(recipe, split, compute.device)
    return PixelSGD(start, lr, recipe.pixel_momentum, recipe.pixel_sweep, velocity, split.train.n_classes)


def build_matching(
    recipe: Recipe,
    split: DataSplit,
    compute: Compute,
    objective: Objective,
    watch: Watch | None = None,
) -> MatchingStep:
    """Build the matching step of real and synthetic images."""
    return MatchingStep(
        objective,
        recipe.match_augment,
        compute.normalization,
        recipe.factor,
        recipe.max_synthetic,
        compute.classes,
        compute.device,
        recipe.class_gradients,
        compute.channels_last,
        compute.parts,
        watch,
    )


def decide_class_gradients(
    recipe: Recipe,
    split: DataSplit,
    compute: Compute,
    objective: Objective,
    network: nn.Module,
    sampler: RepresentativeSampler,
    pixels: PixelSGD,
    state: Checkpoint | None,
) -> Recipe:
    """Decide the class-gradient implementation: the one given, the one of the continued run, or the fastest.

    Returns:
        the recipe with ``class_gradients`` set.

    Raises:
        DreamAccelError: the implementation given cannot serve the network, or none of them runs on the device.
    """
    parameters = objective.parameters(network)
    name = recipe.class_gradients if state is None or recipe.class_gradients != "auto" else state.class_gradients
    if name != "auto":
        if (reason := refusal(name, network, parameters)) is not None:
            raise DreamAccelError(f"class_gradients is {name!r}, which cannot serve this network: {reason}; use loop")
        return replace(recipe, class_gradients=name)

    # Timing does not depend on the rows; fill_picks repeats those of small classes.
    own = slice(compute.classes.start, compute.classes.stop)
    indices = fill_picks(first_rows(*split.train.by_class(), sampler.batch_size))[own]

    def step_of(compute: Compute, candidate: str) -> Callable[[], Any]:
        step = build_matching(replace(recipe, class_gradients=candidate), split, compute, objective)
        step.restart(recipe.seed, "init")

        def matching_step(indices: Tensor, *, images: Tensor, pixels: Tensor) -> tuple[Tensor, Tensor]:
            with compute.autocast():
                return step(network, images, indices, pixels)

        recorded = compute.recorded(matching_step, ("images", "pixels"), on_failure="raise")
        return lambda: recorded(indices, images=sampler.images, pixels=pixels.pixels)

    cached = recipe.real == "cached"
    able = [candidate for candidate in CLASS_GRADIENTS if refusal(candidate, network, parameters) is None]
    try:
        name = choose_implementation(able, compute.device, partial(step_of, compute), cached)
    except DreamAccelError:
        if not compute.graphs:
            raise
        # Where no step can be recorded the run goes on without graphs, so they are timed without.
        name = choose_implementation(able, compute.device, partial(step_of, replace(compute, graphs=False)), cached)
    # A GPU times them, and another rank may find another one the fastest.
    return replace(recipe, class_gradients=compute.ranks.from_first(lambda: name))


def _initial_images(
    recipe: Recipe, split: DataSplit, compute: Compute, network: nn.Module, statistics: RealStatistics
) -> Tensor:
    initialize(network, derive_seed(recipe.seed, "network", "init"))
    statistics.restart("init")
    statistics.set()
    return initial_images(
        recipe.init,
        split.train.images,
        split.train.labels,
        recipe.ipc,
        recipe.factor,
        network=network,
        normalize=compute.prepared,
        seed=derive_seed(recipe.seed, "init"),
    )
