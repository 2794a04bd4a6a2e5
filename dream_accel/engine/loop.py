"""Complete runs: distillation with checkpoints, history and interruption."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ..data import DataSplit
from ..errors import DreamAccelError
from ..recipes.settings import Recipe
from ..results import Progress, Result
from ..runtime.devices import find_device
from ..synthetic import SyntheticSet
from .assembly import assemble
from .checkpoint import Checkpoint
from .splits import load_split

CHECKPOINT_SECONDS = 60.0
"""Minimum time between two automatic checkpoints, seconds."""


class Run:
    """A distillation that can be stopped after any outer iteration and continued to the same bits.

    Args:
        recipe: the settings.
        split: the data set, on the device where the run computes.
        checkpoint: a file that is written every minute and by :meth:`save`. If it exists, the run continues from it.

    Attributes:
        recipe: the settings, with depth and class-gradient implementation decided.
        history: one line for every completed outer iteration.

    Raises:
        DreamAccelError: settings do not fit the data set or the device, or the checkpoint cannot be read or belongs to
            another run.
    """

    def __init__(self, recipe: Recipe, split: DataSplit, checkpoint: str | os.PathLike[str] | None = None) -> None:
        self.recipe = replace(recipe, depth=recipe.depth_for(split.train.shape))
        self._path = None if checkpoint is None else Path(checkpoint)
        state = None
        if self._path is not None and self._path.exists():
            state = Checkpoint.load(self._path, self.recipe)
            expected = (split.train.n_classes, recipe.ipc, *split.train.shape)
            if tuple(state.pixels.shape) != expected:
                raise DreamAccelError(
                    f"{self._path} holds pixels of shape {tuple(state.pixels.shape)}, and this data set asks for "
                    f"{expected}: continue the run on its own data set"
                )
        self._distiller = assemble(self.recipe, split, state)
        self.recipe = self._distiller.recipe
        self._state = self._distiller.state() if state is None else state
        self._saved = time.perf_counter()

    @property
    def history(self) -> tuple[Progress, ...]:
        """One line for every completed outer iteration."""
        return self._state.history

    @property
    def synthetic(self) -> SyntheticSet:
        """The synthetic set after the last completed outer iteration, on the CPU."""
        return SyntheticSet(self._state.pixels.clamp(0, 1).cpu(), self.recipe.factor)

    def advance(self, on_step: Callable[[], None] | None = None) -> Progress:
        """Do one outer iteration. If it is interrupted, the state remains that before it.

        Args:
            on_step: called after every inner step.

        Returns:
            the line of the history for this iteration.

        Raises:
            DreamAccelError: features or pixels became NaN or Inf.
        """
        began, history = time.perf_counter(), self.history
        loss = float(self._distiller.outer_iteration(len(history), on_step))
        self._distiller.check()
        seconds = time.perf_counter() - began
        line = Progress(
            iteration=len(history) + 1,
            step=(len(history) + 1) * self.recipe.inner_steps,
            loss=loss,
            images_per_second=self._distiller.images_per_iteration() / max(seconds, 1e-9),
            seconds=seconds + (history[-1].seconds if history else 0.0),
        )
        self._state = self._distiller.state((*history, line))
        if time.perf_counter() - self._saved > CHECKPOINT_SECONDS:
            self.save()
        return line

    def save(self) -> None:
        """Write the checkpoint, if the run has a checkpoint file."""
        if self._path is not None:
            self._state.save(self._path, self.recipe)
            self._saved = time.perf_counter()


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

    Args:
        recipe: from :func:`dream_accel.recipe`.
        data: the data set: a :class:`dream_accel.data.DataSplit`, or arrays or a map-style Dataset as
            :func:`dream_accel.data.as_split` takes them. Default: the one that the recipe names.
        device: the device to run on; default: a GPU if there is one.
        data_dir: the folder of named data sets, as in :func:`dream_accel.load_dataset`.
        download: whether to download a named data set that is not found.
        checkpoint: a file that is written every minute and at the end. If it exists, the run continues from it, to the
            same bits as without the interruption.
        on_step: called after every inner step.
        on_iteration: called after every outer iteration.

    Returns:
        the synthetic set with the recipe and history that led to it.

    Raises:
        DreamAccelError: the data set, the device, a setting or the checkpoint cannot be used, or features or pixels
            became NaN or Inf.
    """
    where = find_device(device)
    split = load_split(recipe, where, data_dir, download, data)
    if data is not None:
        # The result names the data set that it was made from.
        recipe = replace(recipe, dataset=split.name)
    run = Run(recipe, split, checkpoint)
    interrupted = False
    try:
        while len(run.history) < recipe.iterations:
            line = run.advance(on_step)
            if on_iteration is not None:
                on_iteration(line)
    except KeyboardInterrupt:
        interrupted = True
    run.save()
    names = split.train.class_names
    return Result(run.synthetic, run.recipe, split.normalization, names, list(run.history), interrupted)
