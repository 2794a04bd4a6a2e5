"""Selection of real images of every class by a recipe's strategy, in the feature space of a random network."""

from __future__ import annotations

import csv
import io
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..data import ImageSet
from ..data.stratified import stratified_rows
from ..networks import make_network
from ..networks.batchnorm import rows_of_all_classes, set_statistics
from ..networks.features import embed_rows
from ..random import generator
from ..recipes.settings import Recipe
from ..runtime.devices import find_device
from ..runtime.files import write_text
from ..runtime.modes import default_modes
from ..sampling import select
from .splits import load_split

SELECTION_FILE = "selected.csv"


@dataclass(frozen=True)
class Selection:
    """The selected rows of a training set.

    Attributes:
        rows: (C, k) int64, distinct rows of the whole training set for every class, on the CPU.
        train: the training set.
    """

    rows: Tensor
    train: ImageSet

    @property
    def class_names(self) -> tuple[str, ...]:
        """One name per class."""
        return self.train.class_names

    def images(self) -> tuple[Tensor, Tensor]:
        """Return the images (C * k, channels, H, W) float32 in [0, 1] and their classes (C * k,) int64, on the CPU."""
        n_classes, k = self.rows.shape
        return self.train.batch(self.rows.flatten()).cpu(), torch.arange(n_classes).repeat_interleave(k)

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write selected.csv, with the columns class, class_name, rank (within the class) and index (training set row).

        Args:
            folder: the folder to write to.

        Returns:
            the path of the file.
        """
        table = io.StringIO()
        writer = csv.writer(table, lineterminator="\n")
        writer.writerow(["class", "class_name", "rank", "index"])
        for c, rows in enumerate(self.rows.tolist()):
            writer.writerows([c, self.class_names[c], rank, row] for rank, row in enumerate(rows))
        path = Path(folder) / SELECTION_FILE
        write_text(path, table.getvalue())
        return path


@default_modes()
def select_real(
    recipe: Recipe,
    data: Any = None,
    *,
    device: str | torch.device | None = None,
    data_dir: str | None = None,
    download: bool = False,
) -> Selection:
    """Choose ``ipc`` real images of every class.

    Args:
        recipe: strategy, IPC, network, seed and data set; ``limit_train`` restricts the search to a seeded subset.
        data: the data set, as :func:`dream_accel.data.as_split` takes it; default: the one that the recipe names.
        device: the device to run on; default: a GPU if there is one.
        data_dir: the folder of named data sets, as in :func:`dream_accel.load_dataset`.
        download: whether to download a named data set that is not found.

    Returns:
        the selected rows.

    Raises:
        DreamAccelError: the data set cannot be read, or a class has fewer images than ``ipc``.
    """
    split = load_split(replace(recipe, limit_train=0), find_device(device), data_dir, download, data)
    searched = stratified_rows(split.train, recipe.limit_train or len(split.train), recipe.seed)
    train = split.train.take(searched)
    network = make_network(
        recipe.network,
        train.shape,
        train.n_classes,
        recipe.width,
        recipe.depth_for(train.shape),
        recipe.seed,
        "select",
        **recipe.layer_kinds,
    ).to(train.device)
    real = rows_of_all_classes(*train.by_class(), generator(recipe.seed, "statistics", "select", device=train.device))
    set_statistics(network, split.normalization(train.batch(real)))
    features = embed_rows(train.images, torch.arange(len(train), device=train.device), network, split.normalization)
    picks = select(
        features, train.labels, recipe.ipc, recipe.strategy, seed=recipe.seed, max_iter=recipe.kmeans_iterations
    )
    return Selection(searched[picks.cpu()], split.train)
