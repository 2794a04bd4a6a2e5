"""The distiller: runs the parts of a method together, one outer iteration at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ..data import DataSplit
from ..errors import DreamAccelError
from ..matching.objective import Target
from ..matching.pixels import PixelSGD
from ..matching.step import MatchingStep
from ..networks import initialize
from ..networks.training import Rows, Trainer
from ..random import derive_seed, generator
from ..recipes.settings import Recipe
from ..results import Progress
from ..runtime.heap import retained_heap
from ..sampling import RepresentativeSampler
from .compute import Compute
from .distillation import Schedule
from .pool import NetworkPool
from .statistics import RealStatistics
from .stored_run import Checkpoint
from .synthetic_training import SyntheticTraining

STEPS_AT_ONCE = 16
"""Number of network steps that are recorded in one CUDA graph."""


class Distiller:
    """A run in progress: the synthetic set, the sampler, the network and their optimisers.

    All random streams are named by seed, class and outer iteration, so iteration t can be repeated from its initial
    pixels and velocity alone. The network is initialised again in place; on a GPU, embedding, matching step and network
    update are recorded as CUDA graphs, which can therefore serve all iterations.

    :func:`dream_accel.engine.assembly.assemble` builds the parts. They stay the same objects throughout the run.

    Args:
        recipe: the settings, with depth and class-gradient implementation decided.
        split: the data set, on the device where the run computes.
        compute: device, numeric format, memory format and recording.
        network: the network, initialised again at every outer iteration.
        statistics: sets the statistics of its batch norms from real images.
        trainer: trains that network on real images.
        synthetic_training: trains it on the synthetic set.
        sampler: chooses the real images.
        matching: computes distances and pixel gradients.
        pixels: the synthetic images and their optimiser.
        pool: states of the network that a schedule keeps, with their picks.
        schedule: the order of the inner steps.
    """

    rates = "pixel_lr or network_lr"

    def __init__(
        self,
        recipe: Recipe,
        split: DataSplit,
        compute: Compute,
        *,
        network: nn.Module,
        statistics: RealStatistics,
        trainer: Trainer,
        synthetic_training: SyntheticTraining,
        sampler: RepresentativeSampler,
        matching: MatchingStep,
        pixels: PixelSGD,
        pool: NetworkPool,
        schedule: Schedule[Any],
    ) -> None:
        self.recipe = recipe
        self.split = split
        self.device = compute.device
        self.network = network
        self.statistics = statistics
        self.trainer = trainer
        self.synthetic_training = synthetic_training
        self.sampler = sampler
        self.matching = matching
        self.pixels = pixels
        self.pool = pool
        self.schedule = schedule
        self._compute = compute
        self.iteration = 0
        self._rows = self._row_order(0)
        # An exchange of gradients goes through the host, which no graph can record.
        updating = replace(compute, graphs=compute.graphs and not trainer.parts.exchanged)
        self._update = updating.recorded(self._train_rows, ("images", "labels"), [trainer.draws])
        self._step = compute.recorded(self._match_and_move, ("images", "pixels", "velocity"))
        self._cached_step = compute.recorded(self._match_and_move_cached, ("pixels", "velocity"))

    def state(self, history: Sequence[Progress] = ()) -> Checkpoint:
        """Copy everything that the next outer iteration depends on, of all ranks.

        Args:
            history: one line per completed outer iteration, stored with the state.
        """
        joined, picks = self._compute.ranks.joined, self.sampler.indices
        return Checkpoint(
            joined(self.pixels.pixels.clone()),
            joined(self.pixels.velocity.clone()),
            tuple(history),
            self.recipe.class_gradients,
            picks=None if picks is None else joined(picks.clone()),
        )

    def restore(self, state: Checkpoint) -> None:
        """Set pixels and velocity to those of a state that :meth:`state` returned."""
        own = slice(self._compute.classes.start, self._compute.classes.stop)
        self.pixels.pixels.copy_(state.pixels[own])
        self.pixels.velocity.copy_(state.velocity[own])

    @retained_heap()
    def outer_iteration(self, iteration: int, on_step: Callable[[], None] | None = None) -> Tensor:
        """Initialise the network and do the inner steps of the schedule.

        Args:
            iteration: the number of the outer iteration, from 0.
            on_step: called after every inner step.

        Returns:
            () the distance summed over the classes of this rank, mean over the steps.

        Raises:
            DreamAccelError: the device is out of memory.
        """
        with self._compute.running():
            self.restart(iteration)
            return self.schedule.run(self, on_step or (lambda: None))

    def restart(self, iteration: int) -> None:
        """Initialise the network and the random streams of an outer iteration, and clamp the pixels to [0, 1]."""
        self.iteration = iteration
        self.initialize_network()
        self.trainer.restart(self.recipe.seed, "outer", iteration)
        self._rows = self._row_order(iteration)
        self.synthetic_training.restart(iteration)
        self.pixels.clamp()
        self.sampler.restart(iteration)
        self.matching.restart(self.recipe.seed, iteration)

    def begin_trajectory(self, *keys: object) -> None:
        """Initialise the network and the random streams of its training, named by ``keys`` and by no iteration."""
        self._initialize("trajectory", *keys)
        self.trainer.restart(self.recipe.seed, "trajectory", *keys)
        self._rows = self._row_order("trajectory", *keys)

    def initialize_network(self, *keys: object) -> None:
        """Draw the network of the outer iteration, or another one that ``keys`` name, such as the inner step."""
        self._initialize("outer", self.iteration, *keys)

    def _initialize(self, *keys: object) -> None:
        """Draw the network that ``keys`` name.

        Its batch norms take the statistics of real images, as they do after every training: running averages of
        augmented batches lag behind the weights.
        """
        initialize(self.network, derive_seed(self.recipe.seed, "network", *keys))
        self.statistics.restart(*keys)
        self.statistics.set()

    def match(self) -> Tensor:
        """Do one matching step for all classes with the sampler's images, and update the pixels.

        Returns:
            () the distance summed over classes.
        """
        indices = self.sampler.indices
        assert indices is not None
        return self._step(indices, images=self.sampler.images, pixels=self.pixels.pixels, velocity=self.pixels.velocity)

    def match_target(self, target: Target, augmentations: Tensor) -> Tensor:
        """Do one matching step with a real side computed before through the network as it is, and update the pixels.

        Args:
            target: as :meth:`dream_accel.matching.step.MatchingStep.target` returns it.
            augmentations: those of the target.

        Returns:
            () the distance summed over classes.
        """
        return self._cached_step(target, augmentations, pixels=self.pixels.pixels, velocity=self.pixels.velocity)

    def train(self, count: int) -> None:
        """Train the network on the next ``count`` real images, in batches of ``network_batch``."""
        train = self.split.train
        for rows in self._rows.batches(count, STEPS_AT_ONCE * self.recipe.network_batch):
            self._update(rows, images=train.images, labels=train.labels)
        if count > 0:
            self.statistics.set()

    def trained_together(self, trajectories: Sequence[int]) -> list[int]:
        """Return the trajectories that this rank has to train, in order.

        Args:
            trajectories: those that it lacks. Where ranks share the batches, all train what one of them lacks.
        """
        if not self.trainer.parts.exchanged:
            return list(trajectories)
        lacking = self._compute.ranks.joined(torch.tensor(trajectories, dtype=torch.int64))
        return sorted(set(lacking.tolist()))

    def train_on_synthetic(self, epochs: int) -> None:
        """Train the network for ``epochs`` on the synthetic set as it is."""
        if epochs > 0:
            self.synthetic_training.train(self._compute.ranks.joined(self.pixels.pixels), epochs)
            self.statistics.set()

    def check(self) -> None:
        """Refuse features and pixels that became NaN or Inf.

        This waits for the device, so call it as often as you log, not at every step.

        Raises:
            DreamAccelError: a feature or a pixel is NaN or Inf.
        """
        self.sampler.check()
        if not self.pixels.pixels.isfinite().all():
            raise DreamAccelError(f"the synthetic pixels hold NaN or Inf: they diverged; lower {self.rates}")

    def images_per_iteration(self) -> int:
        """Return the number of real images matched or trained on in one outer iteration."""
        return self.schedule.real_images(self)

    def student_lr(self) -> None:
        """Return None: no step size is learned."""

    def _row_order(self, *keys: object) -> Rows:
        draws = generator(self.recipe.seed, "rows", *keys, device=self.device)
        return Rows(len(self.split.train), draws)

    def _match_and_move(self, indices: Tensor, *, images: Tensor, pixels: Tensor, velocity: Tensor) -> Tensor:
        with self._compute.autocast():
            distances, gradient = self.matching(self.network, images, indices, pixels)
        # This writes ``pixels`` and ``velocity``: the arguments are the optimiser's own tensors.
        self.pixels.step(gradient)
        return distances.sum()

    def _match_and_move_cached(
        self, target: Target, augmentations: Tensor, *, pixels: Tensor, velocity: Tensor
    ) -> Tensor:
        with self._compute.autocast():
            distances, gradient = self.matching.match(self.network, target, augmentations, pixels)
        self.pixels.step(gradient)
        return distances.sum()

    def _train_rows(self, rows: Tensor, *, images: Tensor, labels: Tensor) -> Tensor:
        with self._compute.autocast():
            return self.trainer.steps(
                rows, images=images, labels=labels, batch=self.recipe.network_batch, lr=self.recipe.network_lr
            )
