"""The data set of a run: named by the recipe or given by the caller, cut and resized as the recipe says."""

from __future__ import annotations

from typing import Any

import torch

from ..data import DataSplit, as_split, load_dataset, resize, subset
from ..recipes.settings import Recipe
from ..runtime.devices import memory_needed


def load_split(
    recipe: Recipe, device: torch.device, data_dir: str | None = None, download: bool = False, data: Any = None
) -> DataSplit:
    """The data set of a recipe with its ``size`` and ``limit_train`` applied, on a device.

    Args:
        recipe: names the data set where ``data`` is None.
        device: where the images shall be.
        data_dir, download: of a named data set, as in :func:`dream_accel.load_dataset`.
        data: the caller's own, as :func:`dream_accel.data.as_split` takes it.

    Raises:
        DreamAccelError: the data set is not there, cannot be read, is smaller than ``limit_train``, or does not fit the
            device.
    """
    size = recipe.size or None
    split = load_dataset(recipe.dataset, data_dir, download, size) if data is None else resize(as_split(data), size)
    if 0 < recipe.limit_train != len(split.train):
        split = subset(split, recipe.limit_train, recipe.seed)
    with memory_needed(device, "choose a smaller size or limit_train, or another device"):
        return split.to(device)
