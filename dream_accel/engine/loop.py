"""Distillation from beginning to end."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..data import DataSplit, load_dataset, subset
from ..devices import find_device
from ..errors import DreamAccelError
from ..features import to_float
from ..networks import make_network
from ..objectives import FeatureMatching, GradientMatching, Sum
from ..random import derive_seed, generator
from ..recipes.settings import Recipe
from ..results import Progress, Result
from ..sampling import RepresentativeSampler
from ..synthetic import SyntheticSet, check_packing, initial_images
from .checkpoint import Checkpoint
from .matching import MatchingStep
from .pixels import PixelSGD
from .training import Rows, Trainer

CHECKPOINT_SECONDS = 60.0


class Distiller:
    """A run in progress: the synthetic set, the sampler and the optimiser of the pixels.

    All random streams are named by seed, class and outer iteration, so iteration t can be repeated from the pixels and
    velocity at its beginning alone.

    Args:
        recipe: the settings.
        split: the data set, on the device where everything shall run.
    """

    def __init__(self, recipe: Recipe, split: DataSplit) -> None:
        train = split.train
        check_packing(recipe.ipc, recipe.factor, train.shape[1:])
        self.recipe = recipe
        self.split = split
        self.normalization = split.normalization
        self.device = train.device
        self.sampler = RepresentativeSampler(
            train.images,
            train.labels,
            recipe.clusters,
            recipe.per_cluster,
            recipe.interval,
            recipe.strategy,
            seed=recipe.seed,
            normalize=self.normalization,
            max_iter=recipe.kmeans_iterations,
        )
        self.matching = MatchingStep(
            _objective(recipe), recipe.match_augment, self.normalization, recipe.factor, recipe.max_synthetic
        )
        self.pixels = PixelSGD(
            initial_images(
                recipe.init,
                train.images,
                train.labels,
                recipe.ipc,
                recipe.factor,
                network=self._network("init"),
                normalize=self.normalization,
                seed=derive_seed(recipe.seed, "init"),
            ),
            recipe.pixel_lr_for(train.shape),
            recipe.pixel_momentum,
            recipe.pixel_sweep,
        )

    def state(self, history: list[Progress]) -> Checkpoint:
        """A copy of all that the next outer iteration depends on."""
        return Checkpoint(self.pixels.pixels.clone(), self.pixels.velocity.clone(), tuple(history))

    def restore(self, state: Checkpoint) -> None:
        """Continue from a state that :meth:`state` returned."""
        self.pixels.pixels.copy_(state.pixels)
        self.pixels.velocity.copy_(state.velocity)

    def outer_iteration(self, iteration: int, on_step: Callable[[], None] | None = None) -> Tensor:
        """One fresh network, and ``inner_steps`` matching steps while it trains.

        Args:
            iteration: its number, from 0.
            on_step: called after every inner step.

        Returns:
            () the distance summed over classes, mean over the steps.
        """
        recipe = self.recipe
        network = self._network("outer", iteration)
        trainer = self._trainer(network, iteration)
        rows = Rows(len(self.split.train), generator(recipe.seed, "rows", iteration, device=self.device))
        self.pixels.clamp()
        self.sampler.restart(iteration)
        self.matching.restart(self.split.train.n_classes, self.device, recipe.seed, iteration)
        self._train(trainer, rows, recipe.pretrain_epochs * len(self.split.train))

        total = torch.zeros((), device=self.device)
        for _ in range(recipe.inner_steps):
            self.sampler.update(network)
            indices = self.sampler.indices
            assert indices is not None
            distances, gradient = self.matching(network, self.sampler.images, indices, self.pixels.pixels)
            self.pixels.step(gradient)
            total += distances.sum()
            self._train(trainer, rows, recipe.network_images)
            if on_step is not None:
                on_step()
        return total / recipe.inner_steps

    def check(self) -> None:
        """Refuse features and pixels that became NaN or Inf. Waits for the device: call it where you log.

        Raises:
            DreamAccelError: some did.
        """
        self.sampler.check()
        if not self.pixels.pixels.isfinite().all():
            raise DreamAccelError("the synthetic pixels hold NaN or Inf: they diverged; lower pixel_lr or network_lr")

    def images_per_iteration(self) -> int:
        """Real images matched or trained on in one outer iteration."""
        recipe = self.recipe
        matched = self.sampler.batch_size * self.split.train.n_classes
        return recipe.inner_steps * (matched + recipe.network_images) + recipe.pretrain_epochs * len(self.split.train)

    def _network(self, *keys: object) -> nn.Module:
        recipe, train = self.recipe, self.split.train
        depth = recipe.depth_for(train.shape)
        network = make_network(recipe.network, train.shape, train.n_classes, recipe.width, depth, recipe.seed, *keys)
        return network.to(self.device)

    def _trainer(self, network: nn.Module, iteration: int) -> Trainer:
        recipe = self.recipe
        return Trainer(
            network,
            self.normalization,
            lr=recipe.network_lr,
            momentum=recipe.network_momentum,
            weight_decay=recipe.weight_decay,
            augment=recipe.train_augment,
            cutmix_probability=recipe.cutmix,
            device=self.device,
            seed=recipe.seed,
            keys=("outer", iteration),
        )

    def _train(self, trainer: Trainer, rows: Rows, count: int) -> None:
        """Train on the next ``count`` real images, in batches."""
        train = self.split.train
        for batch in rows.batches(count, self.recipe.network_batch):
            trainer.step(to_float(train.images[batch]), train.labels[batch])


def _objective(recipe: Recipe) -> Any:
    gradients = GradientMatching(recipe.metric, recipe.layers)
    if recipe.feature_weight == 0:
        return gradients
    return Sum((gradients, FeatureMatching(recipe.metric, recipe.feature_weight)))


def load_split(recipe: Recipe, device: torch.device, data_dir: str | None = None, download: bool = False) -> DataSplit:
    """The data set a recipe names, cut to ``limit_train`` images, on ``device``."""
    split = load_dataset(recipe.dataset, data_dir, download, recipe.size or None)
    if recipe.limit_train:
        split = subset(split, recipe.limit_train, recipe.seed)
    return split.to(device)


def distill(
    recipe: Recipe,
    data: DataSplit | None = None,
    *,
    device: str | torch.device | None = None,
    data_dir: str | None = None,
    download: bool = False,
    checkpoint: str | os.PathLike[str] | None = None,
    on_step: Callable[[], None] | None = None,
    on_iteration: Callable[[Progress], None] | None = None,
) -> Result:
    """Distil a data set. Ctrl-C ends the run; the result of the iterations completed is returned.

    Args:
        recipe: from :func:`dream_accel.recipe`.
        data: the data set; default: the one the recipe names.
        device: where to run; default: a GPU if there is one.
        data_dir: where named data sets lie.
        download: fetch a named data set that is not there.
        checkpoint: a file that is written every minute and at the end. Where it exists, the run continues from it, to
            the same bits as without the break.
        on_step: called after every inner step.
        on_iteration: called after every outer iteration.

    Returns:
        the synthetic set with the recipe and history that led to it.

    Raises:
        DreamAccelError: a data set, device or setting that cannot be used, features or pixels that became NaN or Inf.
    """
    where = find_device(device)
    split = load_split(recipe, where, data_dir, download) if data is None else data.to(where)
    recipe = replace(recipe, depth=recipe.depth_for(split.train.shape))
    distiller = Distiller(recipe, split)
    history: list[Progress] = []
    path = None if checkpoint is None else Path(checkpoint)
    if path is not None and path.exists():
        state = Checkpoint.load(path, recipe)
        if state.pixels.shape != distiller.pixels.pixels.shape:
            raise DreamAccelError(
                f"{path} holds pixels of shape {tuple(state.pixels.shape)}, and this data set asks for "
                f"{tuple(distiller.pixels.pixels.shape)}: continue the run on its own data set"
            )
        distiller.restore(state)
        history = list(state.history)

    state = distiller.state(history)
    began = time.perf_counter() - (history[-1].seconds if history else 0.0)
    saved = time.perf_counter()
    interrupted = False
    try:
        for iteration in range(len(history), recipe.iterations):
            loss = distiller.outer_iteration(iteration, on_step)
            history.append(_progress(distiller, iteration, float(loss), history, time.perf_counter() - began))
            distiller.check()
            state = distiller.state(history)
            if path is not None and time.perf_counter() - saved > CHECKPOINT_SECONDS:
                state.save(path, recipe)
                saved = time.perf_counter()
            if on_iteration is not None:
                on_iteration(history[-1])
    except KeyboardInterrupt:
        interrupted = True
    if path is not None:
        state.save(path, recipe)
    synthetic = SyntheticSet(state.pixels.clamp(0, 1).cpu(), recipe.factor)
    names = split.train.class_names
    return Result(synthetic, recipe, split.normalization, names, list(state.history), interrupted)


def _progress(distiller: Distiller, iteration: int, loss: float, history: list[Progress], seconds: float) -> Progress:
    before = history[-1].seconds if history else 0.0
    rate = distiller.images_per_iteration() / max(seconds - before, 1e-9)
    return Progress(iteration + 1, (iteration + 1) * distiller.recipe.inner_steps, loss, rate, seconds)
