"""Sharding: the classes of each rank, by what they cost, and the agreement of all ranks on what they do."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from ..data import ImageSet
from ..errors import DreamAccelError
from ..recipes.settings import Recipe
from ..results import versions
from ..runtime.distributed import Ranks, shares

GRADIENT, SYNTHETIC = 3, 9
"""Cost of an image whose gradient is a target, and of one whose gradient is matched, where an embedded one costs 1."""


def classes_of_rank(recipe: Recipe, train: ImageSet, ranks: Ranks) -> range:
    """Return the classes that a rank embeds, clusters and matches: neighbours, so that all ranks have about one cost.

    The cost of a class is counted in images that pass through the network in an outer iteration. Sizes of classes are
    read from the device, once.

    Args:
        recipe: the settings of the run.
        train: the training images.
        ranks: the ranks.

    Raises:
        DreamAccelError: there are more ranks than classes.
    """
    if ranks.count == 1:
        return range(train.n_classes)
    sizes = train.by_class()[1].diff().tolist()
    refreshes = -(-recipe.inner_steps // recipe.interval)
    synthetic = min(recipe.ipc * recipe.factor**2, recipe.max_synthetic)
    steps = recipe.inner_steps * (GRADIENT * recipe.n_clusters * recipe.per_cluster + SYNTHETIC * synthetic)
    return shares([refreshes * size + steps for size in sizes], ranks.count)[ranks.rank]


def agree(ranks: Ranks, recipe: Recipe, data: dict[str, Any] | None) -> None:
    """Refuse ranks that were started with different settings, data or versions, on all of them.

    Args:
        ranks: the ranks.
        recipe: the settings of this one.
        data: the fingerprint of its training set, if it has one.

    Raises:
        DreamAccelError: a rank differs from rank 0; the message names the rank and the difference.
    """
    mine = {**asdict(recipe), **{f"data set's {key}": value for key, value in (data or {}).items()}, **versions()}
    first, *others = ranks.gathered(mine)
    for number, other in enumerate(others, start=1):
        for name, value in first.items():
            if other.get(name) != value:
                raise DreamAccelError(
                    f"rank {number} has {name} {other.get(name)!r} and rank 0 has {value!r}: start all ranks with the "
                    "same settings, data and versions"
                )
