"""The checkpoint of a run: its name in the run's folder, and when it is written.

A run that keeps a checkpoint writes it

- before the first iteration, which shows that there is room for it;
- after an outer iteration, if the last write is as old as the run was told, :data:`CHECKPOINT_SECONDS` if nothing;
- at the end, however it comes: completed, Ctrl-C or another signal, divergence, or an error.

If it cannot be written, the first case is a refusal; later a warning says so and the run goes on.

The checkpoint before the last one is kept beside it. Where the last one cannot be read, :func:`recover` puts the one
before in its place.
:mod:`dream_accel.engine.stored_run` describes the content of the file.
"""

from __future__ import annotations

import math
import os
import secrets
import time
import warnings
from pathlib import Path

from ..errors import DreamAccelError, DreamAccelWarning, counted
from ..recipes.settings import Recipe
from ..runtime.devices import DRIVER_ERROR, reason_of
from ..runtime.files import UnwritableError
from .stored_run import Checkpoint, Origin, StoredRun, continued, read_checkpoint

CHECKPOINT_FILE = "checkpoint.safetensors"
"""Name of the checkpoint in a run's folder."""
CHECKPOINT_SECONDS = 60.0
"""Default of the minimum time between two checkpoints while a run goes on, seconds."""


def previous_checkpoint(path: Path) -> Path:
    """Return the place of the checkpoint before the last one."""
    return path.with_name(f"{path.stem}.previous{path.suffix}")


def damaged_checkpoint(path: Path) -> Path:
    """Return the place of a checkpoint that could not be read."""
    return path.with_name(f"{path.stem}.damaged{path.suffix}")


def recover(path: Path) -> None:
    """Put the checkpoint before the last one in its place, with a warning, if the last one cannot be read.

    The one that cannot be read is kept as :func:`damaged_checkpoint`. Nothing changes if neither can be read.
    """
    previous = previous_checkpoint(path)
    if not previous.exists():
        return
    why = "is missing"
    if path.exists():
        try:
            read_checkpoint(path)
            return
        except DreamAccelError as error:
            why = str(error).removeprefix(f"{path} ").partition(": remove")[0]
    try:
        done = len(read_checkpoint(previous).state.history)
    except DreamAccelError:
        return
    if path.exists():
        path.replace(damaged_checkpoint(path))
    # A second name, so that the place is never empty.
    os.link(previous, path)
    warnings.warn(
        f"{path} {why}: the run continues from the checkpoint before it, after {counted(done, 'iteration')}",
        DreamAccelWarning,
        stacklevel=2,
    )


class CheckpointFile:
    """The checkpoint file of a run: read when the run begins, and written as this module says.

    Args:
        path: the file; None for a run that keeps none, which makes every method do nothing.
        every: minimum time between two writes while the run goes on, seconds; 0 writes after every outer iteration.
    """

    def __init__(self, path: str | os.PathLike[str] | None, every: float = CHECKPOINT_SECONDS) -> None:
        if not 0 <= every < math.inf:
            raise DreamAccelError(f"checkpoint_every is {every}: give seconds, 0 for every outer iteration")
        self.path = None if path is None else Path(path)
        self.every = every
        self._written_at = time.perf_counter()
        self._written: tuple[int, Recipe, Origin] | None = None
        self._is_whole = False

    def load(self, recipe: Recipe, origin: Origin, shape: tuple[int, ...]) -> tuple[Checkpoint | None, Origin]:
        """Return the state to continue from, None for a new run; and the origin with the changes so far.

        Args:
            recipe: the settings of the run.
            origin: data and device of the run.
            shape: (C, IPC, channels, H, W), that of its pixels.

        Raises:
            DreamAccelError: the file is damaged, or its run had other settings or another data set.
        """
        if self.path is None:
            return None, origin
        recover(self.path)
        if not self.path.exists():
            return None, origin
        stored = read_checkpoint(self.path)
        origin = continued(self.path, stored, recipe, origin)
        if tuple(stored.state.pixels.shape) != shape:
            raise DreamAccelError(
                f"{self.path} holds pixels of shape {tuple(stored.state.pixels.shape)}, and this data set asks for "
                f"{shape}: continue the run on its own data set"
            )
        self._is_whole = True
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
        """Write the run if the last write is as old as ``every``; warn if that fails."""
        if time.perf_counter() - self._written_at >= self.every:
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
            if self._is_whole:
                _keep(self.path)
            run.state.save(self.path, run.recipe, run.origin)
            self._written, self._is_whole = _identity(run), True

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


def _keep(path: Path) -> None:
    """Give the checkpoint that is about to be replaced its second name."""
    if not path.is_file():
        return
    previous = previous_checkpoint(path)
    second = previous.with_name(f".{previous.name}.{secrets.token_hex(4)}.part")
    try:
        os.link(path, second)
        second.replace(previous)
    except OSError:  # no second names on this file system
        path.replace(previous)
    finally:
        # It is still there if both already were names of one file, as after a recovery.
        second.unlink(missing_ok=True)


def _identity(run: StoredRun) -> tuple[int, Recipe, Origin]:
    return len(run.state.history), run.recipe, run.origin
