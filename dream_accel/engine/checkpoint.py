"""The checkpoint of a run: its name in the run's folder, and when it is written.

A run that keeps a checkpoint writes it

- before the first iteration, which shows that there is room for it;
- after an outer iteration, if the last write is older than :data:`CHECKPOINT_SECONDS`;
- at the end, however it comes: completed, Ctrl-C, divergence, or an error.

If it cannot be written, the first case is a refusal; later a warning says so and the run goes on.
:mod:`dream_accel.engine.stored_run` describes the content of the file.
"""

from __future__ import annotations

import os
import time
import warnings
from pathlib import Path

from ..errors import DreamAccelError, DreamAccelWarning
from ..recipes.settings import Recipe
from ..runtime.devices import DRIVER_ERROR, reason_of
from ..runtime.files import UnwritableError
from .stored_run import Checkpoint, Origin, StoredRun, continued, read_checkpoint

CHECKPOINT_FILE = "checkpoint.safetensors"
"""Name of the checkpoint in a run's folder."""
CHECKPOINT_SECONDS = 60.0
"""Minimum time between two checkpoints while a run goes on, seconds."""


class CheckpointFile:
    """The checkpoint file of a run: read when the run begins, and written as this module says.

    Args:
        path: the file; None for a run that keeps none, which makes every method do nothing.
    """

    def __init__(self, path: str | os.PathLike[str] | None) -> None:
        self.path = None if path is None else Path(path)
        self._written_at = time.perf_counter()
        self._written: tuple[int, Recipe, Origin] | None = None

    def load(self, recipe: Recipe, origin: Origin, shape: tuple[int, ...]) -> tuple[Checkpoint | None, Origin]:
        """Return the state to continue from, None for a new run; and the origin with the changes so far.

        Args:
            recipe: the settings of the run.
            origin: data and device of the run.
            shape: (C, IPC, channels, H, W), that of its pixels.

        Raises:
            DreamAccelError: the file is damaged, or its run had other settings or another data set.
        """
        if self.path is None or not self.path.exists():
            return None, origin
        stored = read_checkpoint(self.path)
        origin = continued(self.path, stored, recipe, origin)
        if tuple(stored.state.pixels.shape) != shape:
            raise DreamAccelError(
                f"{self.path} holds pixels of shape {tuple(stored.state.pixels.shape)}, and this data set asks for "
                f"{shape}: continue the run on its own data set"
            )
        return stored.state, origin

    def before_first_iteration(self, run: StoredRun) -> None:
        """Write the run, so that a place without room is refused before any work.

        Raises:
            DreamAccelError: the file cannot be written.
        """
        try:
            self.save(run)
        except OSError as error:
            raise DreamAccelError(
                f"{self.path} cannot be written ({error.strerror}): free the place or name another one"
            ) from None

    def after_iteration(self, run: StoredRun) -> None:
        """Write the run if the last write is older than :data:`CHECKPOINT_SECONDS`; warn if that fails."""
        if time.perf_counter() - self._written_at > CHECKPOINT_SECONDS:
            self._save_or_warn(run)

    def at_end(self, run: StoredRun) -> None:
        """Write the run, whatever ended it; warn if that fails."""
        self._save_or_warn(run)

    def save(self, run: StoredRun) -> None:
        """Write the run now.

        Raises:
            OSError: the file cannot be written; the one that is there stays.
        """
        if self.path is not None:
            self._written_at = time.perf_counter()
            run.state.save(self.path, run.recipe, run.origin)
            self._written = _identity(run)

    def holds(self, run: StoredRun) -> bool:
        """Return True if the file was written with this state of the run, or the run keeps none."""
        return self.path is None or self._written == _identity(run)

    def _save_or_warn(self, run: StoredRun) -> None:
        if self.holds(run):
            return
        try:
            self.save(run)
        except (OSError, UnwritableError) as error:
            self._warn(f"cannot be written ({error}); the run is kept in memory and goes on")
        except RuntimeError as error:
            # The pixels are read from the device first, and after an error of its driver that fails.
            if not str(error).startswith(DRIVER_ERROR):
                raise
            self._warn(f"cannot be renewed ({reason_of(error)}); the one written before stays")

    def _warn(self, what: str) -> None:
        warnings.warn(f"the checkpoint {self.path} {what}", DreamAccelWarning, stacklevel=4)


def _identity(run: StoredRun) -> tuple[int, Recipe, Origin]:
    return len(run.state.history), run.recipe, run.origin
