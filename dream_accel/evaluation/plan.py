"""Time and memory of a run before it starts: the parts of a small one are measured, and scaled to the whole.

The small run has the network, the batches and the steps of the whole one, on some images of some classes. What is
measured there is multiplied by how often the run does it, and by how many more classes or images it has.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch

from ..data import DataSplit, ImageSet, subset
from ..engine.assembly import assemble, matches_trajectories
from ..engine.distiller import Distiller
from ..engine.pool_plan import PoolPlan, plan_pool, trained_images
from ..engine.pooled import active_trajectories
from ..errors import DreamAccelError
from ..networks.features import embed_rows
from ..recipes import RECIPES, Recipe
from ..runtime.host_memory import is_view
from ..runtime.memory import MemoryWatch, available_memory, mapped_memory, used_memory
from ..sampling.blocks import FEATURE_BYTES
from ..sampling.pool import pool_sizes
from .rates import Rates, measured_rates

CLASSES = 20
"""Classes of the small run at most."""
PER_CLASS = 500
"""Images of a class of the small run at most; four batches, if they are more."""


@dataclass(frozen=True)
class RunPlan:
    """Expected time of a run in seconds, and its memory in bytes.

    Attributes:
        refresh: embedding and clustering all classes once; 0 if the strategy reads no features.
        step: one matching step of all classes.
        update: the training of the network between two steps.
        iteration: one outer iteration, once a pool is full.
        start: the initial images.
        filling: the pool of a cached run; 0 for others.
        run: everything from the start to the last iteration.
        evaluation: training and testing the networks of one row.
        memory: bytes by what they hold. Images that are mapped from a file take none.
        available: bytes that the device has for this process.
    """

    refresh: float
    step: float
    update: float
    iteration: float
    start: float
    filling: float
    run: float
    evaluation: float
    memory: dict[str, int]
    available: int

    @property
    def total(self) -> int:
        """All memory at once, bytes."""
        return sum(self.memory.values())

    def refusal(self) -> str | None:
        """Say what does not fit, and the setting that makes it fit; None if all fits."""
        if self.total <= self.available:
            return None
        largest = max(self.memory, key=lambda name: self.memory[name])
        return (
            f"the run needs {self.total / 1e9:.3g} GB and {self.available / 1e9:.3g} GB are free; most of it is for "
            f"{largest}, {self.memory[largest] / 1e9:.3g} GB: {_REMEDIES[largest]}"
        )


PROGRAM, IMAGES, FEATURES, POOL, WORK = "the program", "the images", "features", "the pool", "computing a step"
_REMEDIES = {
    PROGRAM: "free memory, or run elsewhere",
    IMAGES: "choose a smaller limit_train or size",
    FEATURES: "choose a smaller limit_train or refresh_images, or strategy random, which reads none",
    POOL: "keep it on disk (dream-accel pool), or choose fewer trajectories, stages or draws, or pool_dtype bf16",
    WORK: "choose fewer clusters or a smaller batch, max_synthetic, network_batch or width",
}


def plan_run(recipe: Recipe, split: DataSplit) -> RunPlan:
    """Measure a small run on the device of the data set and scale it.

    Args:
        recipe: the settings of the run.
        split: its data set.

    Raises:
        DreamAccelError: the method matches trajectories of experts, or settings do not fit the data set.
    """
    if matches_trajectories(recipe):
        raise DreamAccelError(
            f"{recipe.recipe} is not planned, since its time depends on its experts: choose a recipe that matches real "
            "images"
        )
    pixels = (split.train.images, split.test.images)
    mapped = [mapped_memory(images) for images in pixels]
    in_memory = zip(pixels, mapped, strict=True)
    held = sum(images.nbytes for images, resident in in_memory if resident is None and not is_view(images))
    before = used_memory(split.train.device) - sum(resident or 0 for resident in mapped)
    small = _small(split, recipe)
    settings = replace(recipe, iterations=1, init="random", pool="", limit_train=0)
    with MemoryWatch(split.train.device) as memory:
        distiller = assemble(settings, small)
        rates = measured_rates(distiller, recipe)
    pool = _pool_plan(recipe, distiller, split) if recipe.real == "cached" or _pooled(recipe) else None
    read, classes = _images_read(recipe, split.train), split.train.n_classes / small.train.n_classes
    refresh, step = rates.refresh * read / _images_read(recipe, small.train), rates.step * classes
    filling = 0.0 if pool is None else _filling(recipe, split, pool, rates, refresh, classes)
    update = _update(recipe, split, rates)
    iteration = _iteration(recipe, split, rates, refresh, step, update)
    # The initial images are chosen among all.
    start = refresh * len(split.train) / read if recipe.init in ("kmeans", "mix") else 0.0
    d = _feature_size(distiller)
    features = _features_at_once(recipe, split.train, d) if distiller.sampler.strategy.needs_features else 0
    work = max(0, memory.peak - memory.before - 4 * d * len(small.train))
    return RunPlan(
        refresh=refresh,
        step=step,
        update=update,
        iteration=iteration,
        start=start,
        filling=filling,
        run=start + filling + recipe.iterations * iteration,
        evaluation=recipe.eval_networks * (recipe.eval_epochs * rates.epoch + rates.test),
        memory={
            PROGRAM: max(0, before - held),
            IMAGES: held,
            FEATURES: features,
            POOL: 0 if pool is None else pool.memory,
            WORK: work,
        },
        available=available_memory(split.train.device) + before,
    )


def _images_read(recipe: Recipe, train: ImageSet) -> int:
    """The images that a refresh embeds and clusters."""
    counts = train.class_counts().tolist()
    return sum(pool_sizes(counts, recipe.refresh_images)) if recipe.refresh_images else sum(counts)


def _features_at_once(recipe: Recipe, train: ImageSet, d: int) -> int:
    """The bytes of the features of a block of classes, where a refresh or the initial images need most."""
    counts = train.class_counts().tolist()
    if recipe.refresh_images and recipe.init not in ("kmeans", "mix"):
        counts = pool_sizes(counts, recipe.refresh_images)
    return 4 * d * min(sum(counts), max(FEATURE_BYTES // (4 * d), *counts))


def _small(split: DataSplit, recipe: Recipe) -> DataSplit:
    """Some images of some classes."""
    train, test = split.train, split.test
    if train.n_classes > CLASSES:
        train, test = (_first_classes(images, CLASSES) for images in (train, test))
    at_most = max(PER_CLASS, 4 * recipe.n_clusters * recipe.per_cluster) * train.n_classes
    some = subset(train, at_most, recipe.seed) if len(train) > at_most else train
    return DataSplit(split.name, some, test)


def _first_classes(images: ImageSet, n: int) -> ImageSet:
    rows = (images.labels < n).nonzero()[:, 0]
    return ImageSet(images.images[rows], images.labels[rows], n, images.class_names[:n])


def _pooled(recipe: Recipe) -> bool:
    return RECIPES[recipe.recipe].SCHEDULE == "trained_pool"


def _update(recipe: Recipe, split: DataSplit, rates: Rates) -> float:
    """Seconds of the training between two steps, by the schedule of the method."""
    schedule = RECIPES[recipe.recipe].SCHEDULE
    if recipe.real == "cached" or schedule not in ("trained_on_real", "trained_on_synthetic"):
        return 0.0
    decoded = split.train.n_classes * recipe.ipc * recipe.factor**2
    on_real = schedule == "trained_on_real"
    return rates.training * (recipe.network_images if on_real else recipe.synthetic_epochs * decoded)


def _iteration(recipe: Recipe, split: DataSplit, rates: Rates, refresh: float, step: float, update: float) -> float:
    """Seconds of an outer iteration, once a pool is full."""
    steps = recipe.inner_steps * step
    if recipe.real == "cached" or _pooled(recipe):
        return steps
    refreshes = math.ceil(recipe.inner_steps / recipe.interval) * refresh
    # After its last step a network that learns from the synthetic set is not trained.
    updates = recipe.inner_steps - (RECIPES[recipe.recipe].SCHEDULE == "trained_on_synthetic")
    return refreshes + steps + updates * update + recipe.pretrain_epochs * len(split.train) * rates.training


def _filling(recipe: Recipe, split: DataSplit, pool: PoolPlan, rates: Rates, refresh: float, classes: float) -> float:
    """Seconds that the pool takes: training, refreshes, and the targets of cached steps."""
    trajectories = pool.trajectories - pool.stored
    training = trained_images(recipe, len(split.train)) * rates.training
    refreshes = math.ceil(recipe.stages / recipe.interval) * refresh
    targets = min(trajectories * recipe.stages * recipe.draws, pool.steps) * rates.target * classes
    return trajectories * (training + refreshes) + targets


def _pool_plan(recipe: Recipe, distiller: Distiller, split: DataSplit) -> PoolPlan:
    plan = plan_pool(distiller)
    more = split.train.n_classes / distiller.split.train.n_classes
    steps = recipe.iterations * recipe.inner_steps
    used = active_trajectories(recipe, recipe.iterations - 1).stop
    one = plan.memory / max(1, plan.trajectories)
    return replace(plan, trajectories=used, steps=steps, memory=int(one * min(used, recipe.trajectories) * more))


def _feature_size(distiller: Distiller) -> int:
    """D, of the features that are clustered."""
    split = distiller.split
    row = torch.zeros(1, dtype=torch.int64, device=distiller.device)
    return embed_rows(split.train.images, row, distiller.network, split.normalization).shape[1]
