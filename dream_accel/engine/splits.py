"""The data set of a run: named by the recipe or given by the caller, resized and subsampled as the recipe says."""

from __future__ import annotations

from typing import Any

import torch

from ..data import DataSplit, as_split, load_dataset, resize, subset
from ..recipes.settings import Recipe
from ..runtime.devices import memory_needed


def load_split(
    recipe: Recipe, device: torch.device, data_dir: str | None = None, download: bool = False, data: Any = None
) -> DataSplit:
    """Load the data set of a run, apply the recipe's ``size`` and ``limit_train``, and move it to a device.

    Args:
        recipe: names the data set if ``data`` is None.
        device: the device to move the images to.
        data_dir: the folder of named data sets, as in :func:`dream_accel.load_dataset`.
        download: whether to download a named data set that is not found.
        data: the caller's own data set, as :func:`dream_accel.data.as_split` takes it.

    Returns:
        the data set.

    Raises:
        DreamAccelError: the data set is not found, cannot be read, is smaller than ``limit_train``, or does not fit the
            device.
    """
    size = recipe.size or None
    split = load_dataset(recipe.dataset, data_dir, download, size) if data is None else resize(as_split(data), size)
    if 0 < recipe.limit_train != len(split.train):
        split = subset(split, recipe.limit_train, recipe.seed)
    with memory_needed(device, "choose a smaller size or limit_train, or another device"):
        return split.to(device)
