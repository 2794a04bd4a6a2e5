"""A distillation in progress: the parts of the method put together, one outer iteration at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..data import DataSplit
from ..errors import DreamAccelError
from ..groups import first_rows
from ..matching.choice import choose_way
from ..matching.class_gradients import WAYS, why_not
from ..matching.objective import FeatureMatching, GradientMatching, Sum
from ..matching.pixels import PixelSGD
from ..matching.step import MatchingStep
from ..networks import initialize, make_network
from ..networks.features import embed_rows
from ..networks.training import Rows, Trainer
from ..random import derive_seed, generator
from ..recipes.settings import Recipe
from ..results import Progress
from ..runtime.devices import bf16_supported
from ..runtime.graphs import GraphedFunction
from ..runtime.heap import retained_heap
from ..sampling import RepresentativeSampler
from ..sampling.classes import fill_picks
from ..synthetic import check_packing, initial_images
from .checkpoint import Checkpoint

STEPS_AT_ONCE = 16
"""Network steps that are recorded together."""


class Distiller:
    """A run in progress: the synthetic set, the sampler, the network and their optimisers.

    All random streams are named by seed, class and outer iteration, so iteration t can be repeated from the pixels and
    velocity at its beginning alone. Networks are redrawn in place; on a GPU embedding, matching step and network update
    are recorded as CUDA graphs, which therefore serve all iterations.

    Args:
        recipe: the settings.
        split: the data set, on the device where everything shall run.
        state: where to continue; default: at the beginning, from the recipe's initial images.

    Attributes:
        recipe: the settings, with the way of the gradients per class decided.
    """

    def __init__(self, recipe: Recipe, split: DataSplit, state: Checkpoint | None = None) -> None:
        train = split.train
        check_packing(recipe.ipc, recipe.factor, train.shape[1:])
        if recipe.bf16 and not bf16_supported(train.device):
            raise DreamAccelError(f"bf16 is on, and {train.device} has no bfloat16: leave bf16 off, or run elsewhere")
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
        self.network = make_network(
            recipe.network, train.shape, train.n_classes, recipe.width, recipe.depth_for(train.shape), 0
        ).to(self.device)
        if recipe.channels_last:
            self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.trainer = Trainer(
            self.network,
            self.normalization,
            lr=recipe.network_lr,
            momentum=recipe.network_momentum,
            weight_decay=recipe.weight_decay,
            augment=recipe.train_augment,
            cutmix_probability=recipe.cutmix,
            device=self.device,
            seed=recipe.seed,
            keys=("init",),
            channels_last=recipe.channels_last,
        )
        self._bf16 = torch.autocast(self.device.type, torch.bfloat16, enabled=recipe.bf16, cache_enabled=False)
        self._embed = self._recorded(recipe, self._embed_rows, ("images",))
        self._update = self._recorded(recipe, self._train_rows, ("images", "labels"), [self.trainer.draws])
        self.sampler.embed = lambda _, images, rows: self._embed(rows, images=images)
        self.pixels = PixelSGD(
            self._initial_images(recipe) if state is None else torch.empty_like(state.pixels, device=self.device),
            recipe.pixel_lr_for(train.shape),
            recipe.pixel_momentum,
            recipe.pixel_sweep,
        )
        if state is not None:
            self.restore(state)
        way = recipe.class_gradients if state is None or recipe.class_gradients != "auto" else state.class_gradients
        self.recipe = replace(recipe, class_gradients=self._choose_way(recipe) if way == "auto" else way)
        self.matching = self._matching_step(self.recipe, self.recipe.class_gradients)
        self._step = self._recorded(
            recipe, self._match_and_move, ("images", "pixels", "velocity"), self.matching.generators
        )

    def state(self, history: Sequence[Progress] = ()) -> Checkpoint:
        """A copy of all that the next outer iteration depends on."""
        way = self.recipe.class_gradients
        return Checkpoint(self.pixels.pixels.clone(), self.pixels.velocity.clone(), tuple(history), way)

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
        self.restart(iteration)
        self.train(recipe.pretrain_epochs * len(self.split.train))
        total = torch.zeros((), device=self.device)
        for _ in range(recipe.inner_steps):
            self.sampler.update(self.network)
            total += self.match()
            self.train(recipe.network_images)
            if on_step is not None:
                on_step()
        return total / recipe.inner_steps

    def restart(self, iteration: int) -> None:
        """Draw a network and begin the random streams of an outer iteration."""
        seed = self.recipe.seed
        initialize(self.network, derive_seed(seed, "network", "outer", iteration))
        self.trainer.restart(seed, "outer", iteration)
        self._rows = Rows(len(self.split.train), generator(seed, "rows", iteration, device=self.device))
        self.pixels.clamp()
        self.sampler.restart(iteration)
        self.matching.restart(self.split.train.n_classes, self.device, seed, iteration)

    def match(self) -> Tensor:
        """One matching step for all classes with the sampler's images; () the distance summed over classes."""
        indices = self.sampler.indices
        assert indices is not None
        return self._step(indices, images=self.sampler.images, pixels=self.pixels.pixels, velocity=self.pixels.velocity)

    def train(self, count: int) -> None:
        """Train the network on the next ``count`` real images, in batches."""
        train = self.split.train
        for rows in self._rows.batches(count, STEPS_AT_ONCE * self.recipe.network_batch):
            self._update(rows, images=train.images, labels=train.labels)

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

    def _embed_rows(self, rows: Tensor, *, images: Tensor) -> Tensor:
        with self._bf16:
            return embed_rows(images, rows, self.network, self._prepared)

    def _match_and_move(self, indices: Tensor, *, images: Tensor, pixels: Tensor, velocity: Tensor) -> Tensor:
        with self._bf16:
            distances, gradient = self.matching(self.network, images, indices, pixels)
        # Writes ``pixels`` and ``velocity``, which are its own.
        self.pixels.step(gradient)
        return distances.sum()

    def _train_rows(self, rows: Tensor, *, images: Tensor, labels: Tensor) -> Tensor:
        with self._bf16:
            return self.trainer.steps(
                rows, images=images, labels=labels, batch=self.recipe.network_batch, lr=self.recipe.network_lr
            )

    def _prepared(self, images: Tensor) -> Tensor:
        images = self.normalization(images)
        return images.contiguous(memory_format=torch.channels_last) if self.trainer.channels_last else images

    def _recorded(
        self,
        recipe: Recipe,
        function: Callable[..., Any],
        in_place: Sequence[str],
        generators: Sequence[torch.Generator] = (),
    ) -> GraphedFunction:
        return GraphedFunction(function, in_place=in_place, generators=generators, enabled=recipe.graphs)

    def _matching_step(self, recipe: Recipe, way: str) -> MatchingStep:
        step = MatchingStep(
            _objective(recipe),
            recipe.match_augment,
            self.normalization,
            recipe.factor,
            recipe.max_synthetic,
            way,
            recipe.channels_last,
        )
        parameters = step.objective.parameters(self.network)
        if (reason := why_not(way, self.network, parameters)) is not None:
            raise DreamAccelError(f"class_gradients is {way!r}, which cannot serve this network: {reason}; use loop")
        step.restart(self.split.train.n_classes, self.device, recipe.seed, "init")
        return step

    def _choose_way(self, recipe: Recipe) -> str:
        parameters = _objective(recipe).parameters(self.network)
        ways = [way for way in WAYS if why_not(way, self.network, parameters) is None]
        rows = first_rows(*self.split.train.by_class(), self.sampler.batch_size)
        indices = fill_picks(rows)

        def step_of(way: str) -> Callable[[], Any]:
            step = self._matching_step(recipe, way)

            def call(indices: Tensor, *, images: Tensor, pixels: Tensor) -> tuple[Tensor, Tensor]:
                with self._bf16:
                    return step(self.network, images, indices, pixels)

            recorded = self._recorded(recipe, call, ("images", "pixels"), step.generators)
            return lambda: recorded(indices, images=self.sampler.images, pixels=self.pixels.pixels)

        return choose_way(ways, self.device, step_of)

    def _initial_images(self, recipe: Recipe) -> Tensor:
        train = self.split.train
        initialize(self.network, derive_seed(recipe.seed, "network", "init"))
        return initial_images(
            recipe.init,
            train.images,
            train.labels,
            recipe.ipc,
            recipe.factor,
            network=self.network,
            normalize=self._prepared,
            seed=derive_seed(recipe.seed, "init"),
        )


def _objective(recipe: Recipe) -> Any:
    gradients = GradientMatching(recipe.metric, recipe.layers)
    if recipe.feature_weight == 0:
        return gradients
    return Sum((gradients, FeatureMatching(recipe.metric, recipe.feature_weight)))
