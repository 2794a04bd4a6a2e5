"""A complete distillation in one call: finds the device, loads the data set, and completes the run."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from ..recipes.settings import Recipe
from ..results import Progress, Result
from ..runtime.devices import find_device
from ..runtime.distributed import ALONE, Ranks
from ..runtime.modes import default_modes
from .checkpoint import CHECKPOINT_SECONDS
from .loop import Run
from .splits import load_split


@default_modes()
def distill(
    recipe: Recipe,
    data: Any = None,
    *,
    device: str | torch.device | None = None,
    data_dir: str | None = None,
    download: bool = False,
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_every: float = CHECKPOINT_SECONDS,
    on_step: Callable[[], None] | None = None,
    on_iteration: Callable[[Progress], None] | None = None,
    ranks: Ranks = ALONE,
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
        checkpoint: a file that is written before the first iteration, as the run goes on and at the end. If it exists,
            the run continues from it, to the same bits as without the interruption, on the same data. ``iterations``,
            ``pixel_lr``, ``network_lr`` and the device may differ from those before; ``Result.changes`` records it. The
            one written before it is kept beside it, and takes its place if it cannot be read.
        checkpoint_every: minimum time between two writes, seconds; 0 writes after every outer iteration.
        on_step: called after every inner step.
        on_iteration: called after every outer iteration.
        ranks: the processes that share the classes, as :func:`dream_accel.runtime.distributed.launched_ranks` finds
            them; all of them call this function alike, and have the same result.

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
    return Run(recipe, split, checkpoint, data_dir, checkpoint_every, ranks).complete(on_step, on_iteration)
