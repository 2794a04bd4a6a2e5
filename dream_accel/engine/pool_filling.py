"""Filling of a pool on disk: every trajectory with its states, picks, augmentations and targets."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ..data import DataSplit
from ..errors import DreamAccelError
from ..recipes import Recipe
from ..runtime.devices import find_device
from ..runtime.heap import retained_heap
from ..runtime.modes import default_modes
from .assembly import assemble
from .compute import Compute
from .pool_store import FORMAT, MANIFEST_FILE, StoredPool, manifest_of, pool_difference, save_trajectory
from .pooled import PooledSteps
from .splits import load_split


@default_modes()
@retained_heap()
def fill_pool(
    recipe: Recipe,
    data: Any = None,
    *,
    out: str | os.PathLike[str],
    device: str | torch.device | None = None,
    data_dir: str | None = None,
    download: bool = False,
    on_entry: Callable[[], None] | None = None,
) -> StoredPool:
    """Compute the real side of cached matching steps and keep it in a folder, from which runs read it.

    A pool has ``trajectories`` files. Each has the states of a network along its training on real images, the images
    picked in every state, and for every augmentation draw the draw and the gradients or mean features of all classes. A
    file is written when its trajectory is complete, whole or not at all, so an interrupted call is continued by the
    same one and loses at most the trajectory in progress. A trajectory has the same bits whether it is read from here
    or computed by a run of the same settings, on the same device; a pool therefore changes the time of a run and not
    its pixels.

    Args:
        recipe: with ``real="cached"``. IPC, factor, initialisation, metric and everything else of the synthetic set may
            differ in the runs that read the pool; ``stages`` and ``draws`` may be lower there.
        data: the data set, as :func:`dream_accel.data.as_split` takes it; default: the one that the recipe names.
        out: the folder of the pool; if it holds trajectories of the same settings and data, they are kept.
        device: the device to compute on; default: a GPU if there is one.
        data_dir: the folder of named data sets, as in :func:`dream_accel.load_dataset`.
        download: whether to download a named data set that is not found.
        on_entry: called after every entry, a state with one augmentation draw.

    Returns:
        the pool in the folder.

    Raises:
        DreamAccelError: the recipe caches no real side, the folder holds a pool of other settings, data or version, a
            trajectory diverged or takes more than ``pool_memory``, or the data set or the device cannot be used.
        OSError: a file cannot be written; the trajectories before it are kept.
    """
    split = load_split(recipe, find_device(device), data_dir, download, data)
    folder = Path(out)
    missing, manifest = missing_trajectories(recipe, split, folder), manifest_of(recipe, split)
    if not (folder / MANIFEST_FILE).exists():
        manifest.write(folder / MANIFEST_FILE, FORMAT)
    # Entries do not depend on the synthetic set, so the smallest one will do. One trajectory is in memory at a time.
    smallest = replace(recipe, ipc=1, factor=1, init="random", trajectories=1, pool="")
    distiller = assemble(smallest, split)
    schedule = distiller.schedule
    assert isinstance(schedule, PooledSteps)
    with Compute.of(smallest, split).running():
        for number in missing:
            schedule.train(distiller, number)
            entries = distiller.pool.entries(number, on_entry or _nothing)
            if not all(tensor.isfinite().all() for tensor in entries.values()):
                raise DreamAccelError(
                    f"trajectory {number} diverged: it holds NaN or Inf; lower network_lr, or store fp32"
                )
            save_trajectory(folder, number, manifest, entries)
            distiller.pool.keep_only(())
    return StoredPool(folder)


def missing_trajectories(recipe: Recipe, split: DataSplit, folder: Path) -> list[int]:
    """The numbers of the trajectories that are still to be computed in a folder, damaged ones included.

    Raises:
        DreamAccelError: the recipe caches no real side, or the folder holds a pool of other settings or data.
    """
    if recipe.real != "cached":
        raise DreamAccelError(f"real is {recipe.real!r}, and a pool holds the real side of cached steps: set cached")
    numbers = range(recipe.trajectories)
    if not (folder / MANIFEST_FILE).exists():
        return list(numbers)
    pool = StoredPool(folder)
    difference = pool_difference(pool.manifest, manifest_of(recipe, split), exact=True)
    if difference is not None:
        raise DreamAccelError(
            f"{folder} holds another pool ({difference}): continue it with its own settings, or write to another folder"
        )
    return [number for number in numbers if number not in pool]


def _nothing() -> None:
    pass
