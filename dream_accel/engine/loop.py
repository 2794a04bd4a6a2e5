"""Complete runs: the iterations that are left, their history, and what ends them.

When the checkpoint is written, and its name: :mod:`dream_accel.engine.checkpoint`.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from ..data import DataSplit
from ..errors import DivergenceError, DreamAccelError
from ..recipes.settings import Recipe
from ..results import Progress, Result
from ..runtime.devices import device_errors, find_device
from ..runtime.modes import default_modes
from ..synthetic import SyntheticSet
from .assembly import assemble, matches_trajectories
from .checkpoint import CheckpointFile
from .compute import SMALLER
from .distillation import Distillation
from .distiller import Distiller
from .expert_store import experts_for
from .pool_plan import PoolPlan, plan_pool
from .splits import fingerprint, load_split
from .stored_run import Origin, StoredRun
from .trajectory_assembly import assemble_trajectories


class Run:
    """A distillation that can be stopped after any outer iteration and continued to the same bits.

    Args:
        recipe: the settings.
        split: the data set, on the device where the run computes.
        checkpoint: a file that is written every minute and by :meth:`save`. If it exists, the run continues from it.
        data_dir: the folder of named data sets, stored in the checkpoint for a later continuation.

    Attributes:
        recipe: the settings, with depth and class-gradient implementation decided.
        origin: what the run is made from, and how its settings changed when it was continued.

    Raises:
        DreamAccelError: settings do not fit the data set or the device, or the checkpoint cannot be read or belongs to
            another run or other data.
    """

    @default_modes()
    def __init__(
        self,
        recipe: Recipe,
        split: DataSplit,
        checkpoint: str | os.PathLike[str] | None = None,
        data_dir: str | os.PathLike[str] | None = None,
    ) -> None:
        self.recipe = replace(recipe, depth=recipe.depth_for(split.train.shape))
        experts = experts_for(self.recipe, split.train) if matches_trajectories(recipe) else None
        if experts is not None:
            self.recipe = replace(self.recipe, experts=os.path.abspath(experts.folder))
        if self.recipe.pool:
            self.recipe = replace(self.recipe, pool=os.path.abspath(self.recipe.pool))
        self.origin = Origin(
            fingerprint(split.train),
            split.train.class_names,
            split.normalization,
            str(split.train.device),
            None if data_dir is None else os.path.abspath(data_dir),
            experts=None if experts is None else experts.description(),
        )
        self._checkpoint = CheckpointFile(checkpoint)
        shape = (split.train.n_classes, recipe.ipc, *split.train.shape)
        state, self.origin = self._checkpoint.load(self.recipe, self.origin, shape)
        self._distiller: Distillation = (
            assemble(self.recipe, split, state)
            if experts is None
            else assemble_trajectories(self.recipe, split, experts, state)
        )
        self.recipe = self._distiller.recipe
        self._state = self._distiller.state() if state is None else state
        self._moved = False

    @property
    def history(self) -> tuple[Progress, ...]:
        """One line for every completed outer iteration."""
        return self._state.history

    @property
    def synthetic(self) -> SyntheticSet:
        """The synthetic set after the last completed outer iteration, on the CPU."""
        return SyntheticSet(self._state.pixels.clamp(0, 1).cpu(), self.recipe.factor)

    def result(self, interrupted: bool = False) -> Result:
        """Return the result of the completed outer iterations.

        Args:
            interrupted: whether the user ended the run.
        """
        origin = self.origin
        return Result(
            self.synthetic,
            self.recipe,
            origin.normalization,
            origin.class_names,
            list(self.history),
            interrupted,
            origin.diverged,
            origin.data,
            list(origin.changes),
        )

    @default_modes()
    def advance(self, on_step: Callable[[], None] | None = None) -> Progress:
        """Do one outer iteration. If it is interrupted or diverges, the state remains that before it.

        Args:
            on_step: called after every inner step.

        Returns:
            the line of the history for this iteration.

        Raises:
            DivergenceError: features, pixels or the distance became NaN or Inf.
        """
        if self._moved:
            self._distiller.restore(self._state)
        self._moved = True
        began, history = time.perf_counter(), self.history
        with device_errors(self._distiller.device, SMALLER):
            # A GPU reports what happened in the iteration when a value is read.
            loss = float(self._distiller.outer_iteration(len(history), on_step))
            self._check(loss)
        seconds = time.perf_counter() - began
        line = Progress(
            iteration=len(history) + 1,
            step=(len(history) + 1) * self.recipe.inner_steps,
            loss=loss,
            images_per_second=self._distiller.images_per_iteration() / max(seconds, 1e-9),
            seconds=seconds + (history[-1].seconds if history else 0.0),
            student_lr=self._distiller.student_lr(),
        )
        self._state = self._distiller.state((*history, line))
        self._moved = False
        self._checkpoint.after_iteration(self._stored())
        return line

    def complete(
        self,
        on_step: Callable[[], None] | None = None,
        on_iteration: Callable[[Progress], None] | None = None,
    ) -> Result:
        """Do the outer iterations that are left. Ctrl-C ends the run and returns the result of those completed.

        :mod:`dream_accel.engine.checkpoint` says when the checkpoint is written.

        Args:
            on_step: called after every inner step.
            on_iteration: called after every outer iteration.

        Returns:
            the result.

        Raises:
            DivergenceError: features, pixels or the distance became NaN or Inf; its ``result`` is that of the
                iterations before.
            DreamAccelError: the checkpoint cannot be written before the first iteration.
        """
        self._checkpoint.before_first_iteration(self._stored())
        interrupted = False
        try:
            while len(self.history) < self.recipe.iterations:
                line = self.advance(on_step)
                if on_iteration is not None:
                    on_iteration(line)
        except KeyboardInterrupt:
            interrupted = True
        except DivergenceError as error:
            self.origin = replace(self.origin, diverged=True)
            self._checkpoint.at_end(self._stored())
            raise DivergenceError(str(error), self.result()) from None
        except BaseException:
            self._checkpoint.at_end(self._stored())
            raise
        try:
            self._checkpoint.at_end(self._stored())
        except KeyboardInterrupt:
            interrupted = True
        return self.result(interrupted)

    def save(self, path: str | os.PathLike[str] | None = None) -> None:
        """Write the checkpoint now.

        Args:
            path: the file to write; default: the run's checkpoint file, if it has one.

        Raises:
            OSError: the file cannot be written.
        """
        file = self._checkpoint if path is None else CheckpointFile(path)
        file.save(self._stored())

    def pool_plan(self) -> PoolPlan | None:
        """Size and expected cost of the pool of a run that caches its real side; None for any other run."""
        distiller = self._distiller
        return plan_pool(distiller) if isinstance(distiller, Distiller) and self.recipe.real == "cached" else None

    @property
    def is_saved(self) -> bool:
        """True if the checkpoint file holds the state of the run, or the run has no such file."""
        return self._checkpoint.holds(self._stored())

    def keep(self, path: str | os.PathLike[str]) -> None:
        """Write checkpoints to a file from here on. One that exists is not read, and is replaced."""
        self._checkpoint = CheckpointFile(path)

    def _stored(self) -> StoredRun:
        return StoredRun(self._state, self.recipe, self.origin)

    def _check(self, loss: float) -> None:
        try:
            self._distiller.check()
        except DreamAccelError as error:
            raise DivergenceError(str(error)) from None
        if not math.isfinite(loss):
            raise DivergenceError(f"the matching distance is {loss}: the run diverged; lower {self._distiller.rates}")


@default_modes()
def distill(
    recipe: Recipe,
    data: Any = None,
    *,
    device: str | torch.device | None = None,
    data_dir: str | None = None,
    download: bool = False,
    checkpoint: str | os.PathLike[str] | None = None,
    on_step: Callable[[], None] | None = None,
    on_iteration: Callable[[Progress], None] | None = None,
) -> Result:
    """Distil a data set. Ctrl-C ends the run and returns the result of the completed iterations.

    The pixels do not depend on modes of the caller: gradients disabled, inference mode, autocast, default dtype and
    default device (:func:`dream_accel.runtime.modes.default_modes`).

    Args:
        recipe: from :func:`dream_accel.recipe`.
        data: the data set: a :class:`dream_accel.data.DataSplit`, or arrays or a map-style Dataset as
            :func:`dream_accel.data.as_split` takes them. Default: the one that the recipe names.
        device: the device to run on; default: a GPU if there is one.
        data_dir: the folder of named data sets, as in :func:`dream_accel.load_dataset`.
        download: whether to download a named data set that is not found.
        checkpoint: a file that is written before the first iteration, every minute and at the end. If it exists, the
            run continues from it, to the same bits as without the interruption, on the same data. ``iterations``,
            ``pixel_lr``, ``network_lr`` and the device may differ from those before; ``Result.changes`` records it.
        on_step: called after every inner step.
        on_iteration: called after every outer iteration.

    Returns:
        the synthetic set with the recipe and history that led to it.

    Raises:
        DivergenceError: features, pixels or the distance became NaN or Inf. Its ``result`` is that of the iterations
            before, and the checkpoint holds them: a run with a lower ``pixel_lr`` or ``network_lr`` continues from it.
        DreamAccelError: the data set, the device, a setting or the checkpoint cannot be used.
    """
    where = find_device(device)
    split = load_split(recipe, where, data_dir, download, data)
    if data is not None:
        # The result names the data set that it was made from.
        recipe = replace(recipe, dataset=split.name)
    return Run(recipe, split, checkpoint, data_dir).complete(on_step, on_iteration)
