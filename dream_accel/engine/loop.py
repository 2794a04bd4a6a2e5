"""Complete runs: the iterations that are left, their history, and what ends them.

When the checkpoint is written, and its name: :mod:`dream_accel.engine.checkpoint`.
"""

from __future__ import annotations

import math
import os
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from ..data import DataSplit
from ..errors import DeviceMemoryError, DivergenceError, DreamAccelError, DreamAccelWarning
from ..previews import Previews
from ..recipes.settings import Recipe
from ..results import Progress, Result
from ..runtime.devices import device_errors, release_memory
from ..runtime.distributed import ALONE, LostRankError, Ranks
from ..runtime.modes import default_modes
from ..synthetic import SyntheticSet
from .assembly import assemble, matches_trajectories
from .checkpoint import CHECKPOINT_SECONDS, CheckpointFile
from .compute import SMALLER
from .diagnosis import first_fault
from .distillation import Distillation
from .distiller import Distiller
from .expert_store import experts_for
from .pool_plan import PoolPlan, plan_pool
from .sharding import agree
from .splits import fingerprint
from .stored_run import Checkpoint, Origin, StoredRun
from .trajectory_assembly import assemble_trajectories

MOST_PARTS = 64
"""The images at a time are halved until they are this fraction, where the device is out of memory."""


class Run:
    """A distillation that can be stopped after any outer iteration and continued to the same bits.

    Args:
        recipe: the settings.
        split: the data set, on the device where the run computes.
        checkpoint: a file that is written as the run goes on and by :meth:`save`. If it exists, the run continues from
            it.
        data_dir: the folder of named data sets, stored in the checkpoint for a later continuation.
        checkpoint_every: minimum time between two writes, seconds; 0 writes after every outer iteration.
        ranks: the processes that do the run together, each some of the classes. All of them make a ``Run`` and call the
            same methods; the first reads and writes the checkpoint.

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
        checkpoint_every: float = CHECKPOINT_SECONDS,
        ranks: Ranks = ALONE,
    ) -> None:
        self.recipe = replace(recipe, depth=recipe.depth_for(split.train.shape))
        if ranks.count > 1 and matches_trajectories(recipe):
            raise DreamAccelError(f"{recipe.recipe} matches the trajectories of all classes at once: start one process")
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
        agree(ranks, self.recipe, self.origin.data)
        self._checkpoint = CheckpointFile(checkpoint if ranks.is_first else None, checkpoint_every)
        shape = (split.train.n_classes, recipe.ipc, *split.train.shape)
        state, self.origin = ranks.from_first(partial(self._checkpoint.load, self.recipe, self.origin, shape))
        self._split = split
        self._ranks = ranks
        self._parts = 1
        self._distiller: Distillation = (
            assemble(self.recipe, split, state, ranks)
            if experts is None
            else assemble_trajectories(self.recipe, split, experts, state)
        )
        self.recipe = self._distiller.recipe
        self._state = self._with_previews(self._distiller.state(), Previews()) if state is None else state
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
            self._state.previews,
            None if self._state.picks is None else self._state.picks.cpu(),
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
        began, history = time.perf_counter(), self.history
        loss = self._iterate(on_step)
        seconds = time.perf_counter() - began
        line = Progress(
            iteration=len(history) + 1,
            step=(len(history) + 1) * self.recipe.inner_steps,
            loss=loss,
            images_per_second=self._distiller.images_per_iteration() / max(seconds, 1e-9),
            seconds=seconds + (history[-1].seconds if history else 0.0),
            student_lr=self._distiller.student_lr(),
        )
        self._state = self._with_previews(self._distiller.state((*history, line)), self._state.previews)
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
        self._checkpoint = CheckpointFile(path if self._ranks.is_first else None, self._checkpoint.every)

    @staticmethod
    def _with_previews(state: Checkpoint, before: Previews) -> Checkpoint:
        return replace(state, previews=before.after(len(state.history), state.pixels))

    def _stored(self) -> StoredRun:
        return StoredRun(self._state, self.recipe, self.origin)

    def _iterate(self, on_step: Callable[[], None] | None) -> float:
        """The distance of the next outer iteration, repeated in smaller parts where it does not fit the device."""
        while True:
            if self._moved:
                self._distiller.restore(self._state)
            self._moved = True
            outcomes = self._ranks.concluded(self._outcome(on_step))
            refusals = [outcome for outcome in outcomes if isinstance(outcome, DreamAccelError)]
            if not refusals:
                return sum(outcome for outcome in outcomes if isinstance(outcome, float))
            full = next((refusal for refusal in refusals if isinstance(refusal, DeviceMemoryError)), None)
            if full is None or not isinstance(self._distiller, Distiller) or self._parts >= MOST_PARTS:
                raise refusals[0]
            self._take_smaller_parts(str(full))

    def _outcome(self, on_step: Callable[[], None] | None) -> float | DreamAccelError:
        """The distance of the next outer iteration on this rank, or the reason that there is none."""
        try:
            with device_errors(self._distiller.device, SMALLER):
                # A GPU reports what happened in the iteration when a value is read.
                loss = float(self._distiller.outer_iteration(len(self.history), on_step))
                self._check(loss)
                return loss
        except LostRankError:
            raise
        except DreamAccelError as error:
            # Every rank hears of it before it is raised, since none may wait for one that has stopped.
            return error

    def _take_smaller_parts(self, refusal: str) -> None:
        """Assemble the run again, with half as many images at a time."""
        if self._parts == 1:
            warnings.warn(
                f"{refusal.partition(': ')[0]}: the run goes on with fewer images at a time, which takes longer",
                DreamAccelWarning,
                stacklevel=4,
            )
        self._parts *= 2
        del self._distiller  # its graphs have memory of their own
        release_memory()
        self._distiller = assemble(self.recipe, self._split, self._state, self._ranks, self._parts)
        self._moved = False

    def _check(self, loss: float) -> None:
        try:
            self._distiller.check()
            if not math.isfinite(loss):
                raise DreamAccelError(
                    f"the matching distance is {loss}: the run diverged; lower {self._distiller.rates}"
                )
        except DreamAccelError as error:
            raise DivergenceError(f"{error}{self._where_it_began()}") from None

    def _where_it_began(self) -> str:
        """Repeat the iteration to find the step, the class and the layer; empty where nothing is found."""
        if not isinstance(self._distiller, Distiller):
            return ""
        fault = first_fault(self.recipe, self._split, self._state, self._parts)
        return "" if fault is None else f" ({fault})"
