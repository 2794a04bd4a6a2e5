"""Selection of real images of every class, once: in the feature space of a random network, or by forgetting."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..data import ImageSet
from ..data.stratified import stratified_rows
from ..errors import choices
from ..networks import make_network
from ..networks.batchnorm import rows_of_all_classes, set_statistics
from ..networks.features import embed_rows
from ..random import generator
from ..recipes.settings import Recipe
from ..runtime.devices import find_device
from ..runtime.distributed import ALONE, Ranks
from ..runtime.files import write_text
from ..runtime.modes import default_modes
from ..sampling import select, select_by_score
from ..sampling.selection import FORGETTING, SELECTION_NAMES, check_class_sizes
from .compute import Compute
from .forgetting import check_forgetting, forgetting_scores
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
    strategy: str | None = None,
    device: str | torch.device | None = None,
    data_dir: str | None = None,
    download: bool = False,
    on_epoch: Callable[[], None] | None = None,
    ranks: Ranks = ALONE,
) -> Selection:
    """Choose ``ipc`` real images of every class.

    Args:
        recipe: IPC, network, seed and data set; ``limit_train`` restricts the search to a seeded subset.
        data: the data set, as :func:`dream_accel.data.as_split` takes it; default: the one that the recipe names.
        strategy: one of :data:`dream_accel.sampling.selection.SELECTION_NAMES`; default: that of the recipe.
        device: the device to run on; default: a GPU if there is one.
        data_dir: the folder of named data sets, as in :func:`dream_accel.load_dataset`.
        download: whether to download a named data set that is not found.
        on_epoch: called after every epoch of the network that ``forgetting`` trains.
        ranks: the processes that share the classes; ``forgetting``, which trains one network, is repeated on each.

    Returns:
        the selected rows.

    Raises:
        DreamAccelError: the data set cannot be read, the strategy is unknown, a class has fewer images than ``ipc``, or
            ``forgetting`` is asked for with one class.
    """
    strategy = recipe.strategy if strategy is None else strategy
    check_selection(strategy)
    split = load_split(replace(recipe, limit_train=0), find_device(device), data_dir, download, data)
    searched = stratified_rows(split.train, recipe.limit_train or len(split.train), recipe.seed)
    train = split.train.take(searched)
    picks = select_rows(recipe, train, Compute.of(recipe, split, ranks), strategy, on_epoch=on_epoch)
    return Selection(searched[picks.cpu()], split.train)


@default_modes()
def select_rows(
    recipe: Recipe,
    train: ImageSet,
    compute: Compute,
    strategy: str,
    *,
    repeat: bool = False,
    on_epoch: Callable[[], None] | None = None,
) -> Tensor:
    """Choose ``ipc`` rows of every class of a training set.

    Args:
        recipe: IPC, network and seed.
        train: the training set, on the device where the choice is computed.
        compute: device, normalisation, numeric format and recording; and the classes of this rank.
        strategy: one of :data:`dream_accel.sampling.selection.SELECTION_NAMES`.
        repeat: whether a class with fewer images repeats them, instead of being refused.
        on_epoch: called after every epoch of the network that ``forgetting`` trains.

    Returns:
        (C, IPC) int64 rows of ``train``.

    Raises:
        DreamAccelError: as :func:`select_real`.
    """
    check_selection(strategy)
    if not repeat:  # before a network is trained
        check_class_sizes(recipe.ipc, train.class_counts().tolist())
    if strategy == FORGETTING:
        check_forgetting(train.n_classes)
        scores = forgetting_scores(recipe, train, compute, on_epoch)
        return select_by_score(scores, train.labels, recipe.ipc, seed=recipe.seed, repeat=repeat)
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
    set_statistics(network, compute.normalization(train.batch(real)))
    if compute.ranks.count == 1:
        rows = torch.arange(len(train), device=train.device)
    else:
        order, offsets = train.by_class()
        first, stop = (int(offsets[end]) for end in (compute.classes.start, compute.classes.stop))
        rows = order[first:stop]
    picks = select(
        embed_rows(train.images, rows, network, compute.normalization),
        train.labels[rows] - compute.classes.start,
        recipe.ipc,
        strategy,
        seed=recipe.seed,
        max_iter=recipe.kmeans_iterations,
        repeat=repeat,
    )
    return compute.ranks.joined(rows[picks])


def check_selection(strategy: str) -> None:
    """Refuse a name that is none of :data:`dream_accel.sampling.selection.SELECTION_NAMES`.

    Raises:
        DreamAccelError: the name is unknown.
    """
    if strategy not in SELECTION_NAMES:
        raise choices("strategy", strategy, SELECTION_NAMES)
