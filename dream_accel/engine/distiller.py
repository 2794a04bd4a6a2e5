"""A distillation in progress: the parts of the method put together, one outer iteration at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..data import DataSplit
from ..errors import DreamAccelError
from ..features import to_float
from ..heap import retained_heap
from ..networks import make_network
from ..objectives import FeatureMatching, GradientMatching, Sum
from ..random import derive_seed, generator
from ..recipes.settings import Recipe
from ..results import Progress
from ..sampling import RepresentativeSampler
from ..synthetic import check_packing, initial_images
from .checkpoint import Checkpoint
from .matching import MatchingStep
from .pixels import PixelSGD
from .training import Rows, Trainer


class Distiller:
    """A run in progress: the synthetic set, the sampler and the optimiser of the pixels.

    All random streams are named by seed, class and outer iteration, so iteration t can be repeated from the pixels and
    velocity at its beginning alone.

    Args:
        recipe: the settings.
        split: the data set, on the device where everything shall run.
        state: where to continue; default: at the beginning, from the recipe's initial images.
    """

    def __init__(self, recipe: Recipe, split: DataSplit, state: Checkpoint | None = None) -> None:
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
            self._initial_images() if state is None else torch.empty_like(state.pixels, device=self.device),
            recipe.pixel_lr_for(train.shape),
            recipe.pixel_momentum,
            recipe.pixel_sweep,
        )
        if state is not None:
            self.restore(state)

    def state(self, history: Sequence[Progress] = ()) -> Checkpoint:
        """A copy of all that the next outer iteration depends on."""
        return Checkpoint(self.pixels.pixels.clone(), self.pixels.velocity.clone(), tuple(history))

    def restore(self, state: Checkpoint) -> None:
        """Continue from a state that :meth:`state` returned."""
        self.pixels.pixels.copy_(state.pixels)
        self.pixels.velocity.copy_(state.velocity)

    @retained_heap()
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

    def _initial_images(self) -> Tensor:
        recipe, train = self.recipe, self.split.train
        return initial_images(
            recipe.init,
            train.images,
            train.labels,
            recipe.ipc,
            recipe.factor,
            network=self._network("init"),
            normalize=self.normalization,
            seed=derive_seed(recipe.seed, "init"),
        )

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
