"""Protocols of a run at work and of a schedule, between which the kinds of distillation are exchanged."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from ..recipes.settings import Recipe
from ..results import Progress
from .stored_run import Checkpoint


class Distillation(Protocol):
    """The parts of a run at work, as :class:`dream_accel.engine.loop.Run` drives them.

    :class:`dream_accel.engine.distiller.Distiller` matches real and synthetic images,
    :class:`dream_accel.engine.trajectories.TrajectoryDistiller` the trajectories of experts.
    """

    recipe: Recipe
    """The settings, with everything decided."""
    rates: str
    """The learning rates to lower if the run diverges, in words."""
    device: torch.device
    """The device of the run."""

    def state(self, history: Sequence[Progress] = ()) -> Checkpoint:
        """Copy everything that the next outer iteration depends on."""
        ...

    def restore(self, state: Checkpoint) -> None:
        """Go back to a state that :meth:`state` returned."""
        ...

    def outer_iteration(self, iteration: int, on_step: Callable[[], None] | None = None) -> Tensor:
        """Do the inner steps of an outer iteration, counted from 0, and return the mean distance ()."""
        ...

    def check(self) -> None:
        """Refuse values that became NaN or Inf; this waits for the device."""
        ...

    def images_per_iteration(self) -> int:
        """Return the number of real images matched or trained on in one outer iteration."""
        ...

    def student_lr(self) -> float | None:
        """Return the learned step size of the student, None if there is none; this waits for the device."""
        ...


Parts = TypeVar("Parts", contravariant=True)
"""The kind of :class:`Distillation` that a schedule is for."""


class Schedule(Protocol[Parts]):
    """The order of the inner steps of one outer iteration; :mod:`dream_accel.engine.schedules` has all schedules."""

    def run(self, distiller: Parts, on_step: Callable[[], None], /) -> Tensor:
        """Do the inner steps.

        Args:
            distiller: the run, whose methods do the single steps.
            on_step: called after every inner step.

        Returns:
            () the distance summed over classes, mean over the steps.
        """
        ...

    def real_images(self, distiller: Parts, /) -> int:
        """Return the number of real images matched or trained on in one outer iteration."""
        ...
