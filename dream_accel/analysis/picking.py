"""Picks of the sampling strategies in the features of one network, which embeds the training set once."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from .. import ops
from ..clustering import BatchedKMeans, scaled_rows
from ..data import DataSplit
from ..errors import DreamAccelError
from ..groups import count_in_groups, group_of_rows
from ..networks.features import embed_rows
from ..random import derive_seed
from ..recipes import Recipe
from ..sampling.classes import fill_picks
from ..sampling.strategies import find_strategy


class Picker:
    """Picks batches as :class:`dream_accel.RepresentativeSampler` does, of several strategies and sizes.

    Args:
        recipe: ``per_cluster``, ``kmeans_iterations`` and the seed.
        split: the data set, on the device where it is embedded.
        strategies: the strategies that will be asked for.
        batches: the sizes that will be asked for, images of a class.

    Raises:
        DreamAccelError: a strategy is unknown, or a size is not a multiple of ``per_cluster`` or larger than a class.
    """

    def __init__(self, recipe: Recipe, split: DataSplit, strategies: Sequence[str], batches: Sequence[int]) -> None:
        for name in strategies:
            find_strategy(name)
        check_batches(recipe.per_cluster, split, batches)
        self._recipe = recipe
        self._split = split
        self._order, self.offsets = split.train.by_class()
        self._x: Tensor | None = None

    def embed(self, network: nn.Module) -> None:
        """Compute the features in which images are picked."""
        train = self._split.train
        features = embed_rows(train.images, self._order, network, self._split.normalization)
        self._x = scaled_rows(features, self.offsets)

    def pick(self, strategy: str, batch: int, draw: int = 0) -> Tensor:
        """Pick a batch of every class.

        Args:
            strategy: a name of :data:`dream_accel.sampling.strategies.STRATEGIES`.
            batch: images of a class.
            draw: the number of the draw, which names its random stream.

        Returns:
            (C, batch) int64 rows of the training set.
        """
        return self._order[self.positions(strategy, batch, draw)]

    def positions(self, strategy: str, batch: int, draw: int = 0) -> Tensor:
        """Pick as :meth:`pick` does, and return places in the order of the classes, which :attr:`offsets` delimit."""
        recipe, per_cluster = self._recipe, self._recipe.per_cluster
        seed = derive_seed(recipe.seed, "analysis picks", draw)
        picks = find_strategy(strategy).pick(
            self.features(), self.offsets, batch // per_cluster, per_cluster, seed, recipe.kmeans_iterations
        )
        return fill_picks(picks)

    def shares(self, strategy: str, batch: int, draw: int = 0) -> Tensor:
        """Measure what each pick of :meth:`pick` stands for: the part of its class that is nearest to it.

        Returns:
            (C, batch) float64, of sum 1 in every class; of picks in one place, the first has it all.
        """
        x, offsets = self.features(), self.offsets
        labels, _ = ops.kmeans_assign(x, offsets, x[self.positions(strategy, batch, draw)])
        n_classes = len(offsets) - 1
        counts = count_in_groups(labels, group_of_rows(offsets, len(x)), n_classes, batch)
        return counts.double() / offsets.diff().unsqueeze(1)

    def reference_labels(self, n_clusters: int) -> Tensor:
        """Cluster every class by a K-Means that no strategy has part in.

        Args:
            n_clusters: sub-clusters per class.

        Returns:
            (N,) int32 labels 0..n_clusters-1 within the class, in the order of the classes.
        """
        seed = derive_seed(self._recipe.seed, "reference clusters")
        km = BatchedKMeans(n_clusters, max_iter=self._recipe.kmeans_iterations, seed=seed)
        return km.fit(self.features(), self.offsets, check=False).labels_

    def features(self) -> Tensor:
        """Return the features (N, D) that :meth:`embed` computed, in the order of the classes."""
        assert self._x is not None, "embed() comes first"
        return self._x


def check_draws(draws: int) -> None:
    """Refuse fewer random draws than one, which leave nothing to draw.

    Raises:
        DreamAccelError: ``draws`` is below 1.
    """
    if draws < 1:
        raise DreamAccelError(f"{draws} draws of every batch are asked for: give at least 1")


def check_batches(per_cluster: int, split: DataSplit, batches: Sequence[int]) -> None:
    """Refuse sizes of batches that the classes of a training set do not hold.

    Args:
        per_cluster: images per sub-cluster, of which a batch holds a multiple.
        split: the data set.
        batches: images of a class.

    Raises:
        DreamAccelError: a size is below 1, not a multiple, or larger than a class.
    """
    counts = split.train.class_counts().tolist()
    smallest = min(range(len(counts)), key=counts.__getitem__)
    for batch in batches:
        if batch > counts[smallest]:
            name = split.train.class_names[smallest]
            raise DreamAccelError(
                f"a batch has {batch} images of a class, and class {name!r} has {counts[smallest]}: give batches of "
                f"at most {counts[smallest]}"
            )
        if batch < 1 or batch % per_cluster:
            raise DreamAccelError(
                f"a batch has {batch} images of a class and per_cluster is {per_cluster}: give a multiple, 1 at least"
            )
