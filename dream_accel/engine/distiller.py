"""A distillation in progress: the parts of the method at work, one outer iteration at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from torch import Tensor, nn

from ..data import DataSplit
from ..errors import DreamAccelError
from ..matching.pixels import PixelSGD
from ..matching.step import MatchingStep
from ..networks import initialize
from ..networks.training import Rows, Trainer
from ..random import derive_seed, generator
from ..recipes.settings import Recipe
from ..results import Progress
from ..runtime.heap import retained_heap
from ..sampling import RepresentativeSampler
from .checkpoint import Checkpoint
from .compute import Compute

STEPS_AT_ONCE = 16
"""Network steps that are recorded together."""


class Schedule(Protocol):
    """The inner steps of one outer iteration; those there are, in :mod:`dream_accel.engine.schedules`."""

    def run(self, distiller: Distiller, on_step: Callable[[], None], /) -> Tensor:
        """Do the inner steps on a network just drawn; () the distance summed over classes, mean over the steps."""
        ...

    def real_images(self, distiller: Distiller, /) -> int:
        """Real images matched or trained on in one outer iteration."""
        ...


class Distiller:
    """A run in progress: the synthetic set, the sampler, the network and their optimisers.

    All random streams are named by seed, class and outer iteration, so iteration t can be repeated from the pixels and
    velocity at its beginning alone. Networks are redrawn in place; on a GPU embedding, matching step and network update
    are recorded as CUDA graphs, which therefore serve all iterations.

    The parts come from :func:`dream_accel.engine.assembly.assemble` and stay the same objects.

    Args:
        recipe: the settings, with nothing left open.
        split: the data set, on the device where everything runs.
        compute: numeric format, memory format and recording.
        network: redrawn at every outer iteration.
        trainer: of that network.
        sampler: chooses the real images.
        matching: computes distances and pixel gradients.
        pixels: the synthetic images and their optimiser.
        schedule: the order of the inner steps.
    """

    def __init__(
        self,
        recipe: Recipe,
        split: DataSplit,
        compute: Compute,
        *,
        network: nn.Module,
        trainer: Trainer,
        sampler: RepresentativeSampler,
        matching: MatchingStep,
        pixels: PixelSGD,
        schedule: Schedule,
    ) -> None:
        self.recipe = recipe
        self.split = split
        self.device = compute.device
        self.network = network
        self.trainer = trainer
        self.sampler = sampler
        self.matching = matching
        self.pixels = pixels
        self.schedule = schedule
        self._compute = compute
        self._rows = self._row_order(0)
        self._update = compute.recorded(self._train_rows, ("images", "labels"), [trainer.draws])
        self._step = compute.recorded(self._match_and_move, ("images", "pixels", "velocity"), matching.generators)

    def state(self, history: Sequence[Progress] = ()) -> Checkpoint:
        """A copy of all that the next outer iteration depends on."""
        return Checkpoint(
            self.pixels.pixels.clone(), self.pixels.velocity.clone(), tuple(history), self.recipe.class_gradients
        )

    def restore(self, state: Checkpoint) -> None:
        """Continue from a state that :meth:`state` returned."""
        self.pixels.pixels.copy_(state.pixels)
        self.pixels.velocity.copy_(state.velocity)

    @retained_heap()
    def outer_iteration(self, iteration: int, on_step: Callable[[], None] | None = None) -> Tensor:
        """One fresh network, and the inner steps of the schedule.

        Args:
            iteration: its number, from 0.
            on_step: called after every inner step.

        Returns:
            () the distance summed over classes, mean over the steps.

        Raises:
            DreamAccelError: the device is out of memory.
        """
        with self._compute.running():
            self.restart(iteration)
            return self.schedule.run(self, on_step or _nothing)

    def restart(self, iteration: int) -> None:
        """Draw a network and begin the random streams of an outer iteration."""
        seed = self.recipe.seed
        initialize(self.network, derive_seed(seed, "network", "outer", iteration))
        self.trainer.restart(seed, "outer", iteration)
        self._rows = self._row_order(iteration)
        self.pixels.clamp()
        self.sampler.restart(iteration)
        self.matching.restart(seed, iteration)

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
        return self.schedule.real_images(self)

    def _row_order(self, iteration: int) -> Rows:
        draws = generator(self.recipe.seed, "rows", iteration, device=self.device)
        return Rows(len(self.split.train), draws)

    def _match_and_move(self, indices: Tensor, *, images: Tensor, pixels: Tensor, velocity: Tensor) -> Tensor:
        with self._compute.autocast():
            distances, gradient = self.matching(self.network, images, indices, pixels)
        # Writes ``pixels`` and ``velocity``, which are its own.
        self.pixels.step(gradient)
        return distances.sum()

    def _train_rows(self, rows: Tensor, *, images: Tensor, labels: Tensor) -> Tensor:
        with self._compute.autocast():
            return self.trainer.steps(
                rows, images=images, labels=labels, batch=self.recipe.network_batch, lr=self.recipe.network_lr
            )


def _nothing() -> None:
    pass
