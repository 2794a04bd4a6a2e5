"""A network at several points of its training on real images, at which batches are compared."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import nn

from ..data import DataSplit
from ..engine.assembly import build_network, build_trainer
from ..engine.compute import Compute
from ..engine.statistics import RealStatistics
from ..errors import DreamAccelError
from ..networks import initialize
from ..networks.training import Rows
from ..random import derive_seed, generator
from ..recipes import Recipe


def along_training(recipe: Recipe, split: DataSplit, trained: Sequence[int]) -> Iterator[tuple[int, nn.Module]]:
    """Train a network as the recipe trains the networks of its matching loop, and stop at each of some points.

    Args:
        recipe: network, optimiser, batch size, augmentation and seed.
        split: the data set, on the device where the network computes.
        trained: numbers of training images after which to stop, ascending; 0 is the random network.

    Yields:
        the number, and the network, which is trained further in place afterwards.

    Raises:
        DreamAccelError: the numbers do not ascend, or one is negative.
    """
    if not trained or list(trained) != sorted(set(trained)) or trained[0] < 0:
        raise DreamAccelError(f"trained is {tuple(trained)}: give ascending numbers of images, from 0 on")
    compute, train = Compute.of(recipe, split), split.train
    network = build_network(recipe, split, compute)
    trainer = build_trainer(recipe, compute, network)
    statistics = RealStatistics(network, split, compute, recipe.seed)
    initialize(network, derive_seed(recipe.seed, "network", "analysis"))
    trainer.restart(recipe.seed, "analysis")
    statistics.restart("analysis")
    rows = Rows(len(train), generator(recipe.seed, "rows", "analysis", device=compute.device))
    done = 0
    for stop in trained:
        with compute.running(), compute.autocast():
            for some in rows.batches(stop - done, recipe.network_batch):
                trainer.steps(
                    some, images=train.images, labels=train.labels, batch=recipe.network_batch, lr=recipe.network_lr
                )
            statistics.set()
        done = stop
        yield stop, network
