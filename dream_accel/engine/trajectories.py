"""The distiller of trajectories: synthetic set, step size and experts run together, one outer iteration at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import DreamAccelError
from ..matching.pixels import PixelSGD
from ..matching.trajectories import StepSize, TrajectoryStep
from ..networks.training import Rows
from ..random import derive_seed, generator
from ..recipes.settings import Recipe
from ..results import Progress
from ..runtime.heap import retained_heap
from .compute import Compute
from .distillation import Schedule
from .expert_store import Experts
from .stored_run import Checkpoint


class TrajectoryDistiller:
    """A run in progress that matches trajectories: synthetic set, step size, experts.

    All random streams are named by seed and outer iteration, so iteration t can be repeated from its initial pixels,
    step size and their velocities alone. On a GPU the step is recorded as a CUDA graph; the parameters of the experts
    are read from their files on the host and copied to the device without waiting for it.

    :func:`dream_accel.engine.trajectory_assembly.assemble_trajectories` builds the parts. They stay the same objects
    throughout the run.

    Args:
        recipe: the settings, with depth decided.
        compute: device, numeric format, memory format and recording.
        network: the architecture of student and experts.
        experts: the experts.
        pixels: the synthetic images and their optimiser.
        step_size: the student's step size and its optimiser.
        matching: computes the distance and its derivatives.
        schedule: the order of the inner steps.
    """

    rates = "pixel_lr or student_lr_lr"

    def __init__(
        self,
        recipe: Recipe,
        compute: Compute,
        *,
        network: nn.Module,
        experts: Experts,
        pixels: PixelSGD,
        step_size: StepSize,
        matching: TrajectoryStep,
        schedule: Schedule[Any],
    ) -> None:
        self.recipe = recipe
        self.device = compute.device
        self.network = network
        self.experts = experts
        self.pixels = pixels
        self.step_size = step_size
        self.matching = matching
        self.schedule = schedule
        self._compute = compute
        n_classes, ipc = pixels.pixels.shape[:2]
        self._decoded = n_classes * ipc * recipe.factor**2
        self._batch = min(recipe.synthetic_batch or self._decoded, self._decoded)
        self.restart(0)
        in_place = ("pixels", "velocity", "step_size")
        self._step = compute.recorded(self._match_and_move, in_place, [matching.draws])

    def state(self, history: Sequence[Progress] = ()) -> Checkpoint:
        """Copy everything that the next outer iteration depends on.

        Args:
            history: one line per completed outer iteration, stored with the state.
        """
        pixels, step_size = self.pixels, self.step_size.state.clone()
        return Checkpoint(pixels.pixels.clone(), pixels.velocity.clone(), tuple(history), step_size=step_size)

    def restore(self, state: Checkpoint) -> None:
        """Set pixels, step size and their velocities to those of a state that :meth:`state` returned."""
        assert state.step_size is not None
        self.pixels.pixels.copy_(state.pixels)
        self.pixels.velocity.copy_(state.velocity)
        self.step_size.state.copy_(state.step_size)

    @retained_heap()
    def outer_iteration(self, iteration: int, on_step: Callable[[], None] | None = None) -> Tensor:
        """Clamp the pixels to [0, 1] and do the inner steps of the schedule.

        Args:
            iteration: the number of the outer iteration, from 0.
            on_step: called after every inner step.

        Returns:
            () the distance, mean over the steps.

        Raises:
            DreamAccelError: the device is out of memory.
        """
        with self._compute.running():
            self.restart(iteration)
            self.pixels.clamp()
            return self.schedule.run(self, on_step or (lambda: None))

    def restart(self, iteration: int) -> None:
        """Begin the random streams of an outer iteration."""
        seed = self.recipe.seed
        # On the host, where the files are read.
        self._draws = Random(derive_seed(seed, "trajectories", iteration))
        self._rows = Rows(self._decoded, generator(seed, "student rows", iteration, device=self.device))
        self.matching.restart(seed, iteration)

    def match(self) -> Tensor:
        """Draw an expert and a start epoch, do one step, and update pixels and step size.

        Returns:
            () the distance.
        """
        number = self._draws.choice(self.experts.numbers)
        epoch = self._draws.randrange(self.recipe.max_start_epoch)
        start, target = (self._parameters(number, at) for at in (epoch, epoch + self.recipe.expert_epochs))
        rows = torch.stack([self._rows.take(self._batch) for _ in range(self.recipe.synthetic_steps)])
        pixels, velocity = self.pixels.pixels, self.pixels.velocity
        return self._step(start, target, rows, pixels=pixels, velocity=velocity, step_size=self.step_size.state)

    def check(self) -> None:
        """Refuse pixels and a step size that became NaN or Inf.

        This waits for the device, so call it as often as you log, not at every step.

        Raises:
            DreamAccelError: a pixel or the step size is NaN or Inf.
        """
        values = {"synthetic pixels": self.pixels.pixels, "student's step size and its velocity": self.step_size.state}
        for name, tensor in values.items():
            if not tensor.isfinite().all():
                raise DreamAccelError(f"the {name} hold NaN or Inf: they diverged; lower {self.rates}")

    def images_per_iteration(self) -> int:
        """Return the number of real images matched or trained on in one outer iteration."""
        return self.schedule.real_images(self)

    def student_lr(self) -> float:
        """Return the learned step size; this waits for the device."""
        return float(self.step_size.logarithm.exp())

    def _parameters(self, number: int, epoch: int) -> Tensor:
        flat = self.experts.flat(number, epoch, self.network)
        if self.device.type == "cuda":
            # Copied from pinned memory, since a copy from any other would wait; PyTorch keeps it until it is done.
            flat = flat.pin_memory()
        return flat.to(self.device, non_blocking=True)

    def _match_and_move(
        self, start: Tensor, target: Tensor, rows: Tensor, *, pixels: Tensor, velocity: Tensor, step_size: Tensor
    ) -> Tensor:
        with self._compute.autocast():
            found = self.matching(self.network, start, target, rows, pixels, self.step_size.logarithm)
        # This writes ``pixels``, ``velocity`` and ``step_size``: the arguments are the optimisers' own tensors.
        self.pixels.step(found.pixels)
        self.step_size.step(found.log_step_size)
        return found.distance
