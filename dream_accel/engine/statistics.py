"""Statistics of the network's batch norms, set from real images before the network embeds or is matched through."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..data import DataSplit, to_float
from ..networks.batchnorm import batch_norms, rows_of_all_classes, set_statistics
from ..random import derive_seed
from .compute import Compute


class RealStatistics:
    """Sets the running statistics of batch norms; does nothing for a network that has none.

    Args:
        network: the network of the run.
        split: the data set, on the device where the run computes.
        compute: numeric format and recording.
        seed: seed of the run.
    """

    def __init__(self, network: nn.Module, split: DataSplit, compute: Compute, seed: int) -> None:
        self.needed = bool(batch_norms(network))
        self._network = network
        self._images = split.train.images
        self._compute = compute
        self._seed = seed
        if self.needed:
            self._by_class = split.train.by_class()
            self._draws = torch.Generator(compute.device)
            self._recorded = compute.recorded(self._forward, ("images",))

    def restart(self, *keys: object) -> None:
        """Begin the random stream of real images that ``keys`` name, such as the outer iteration."""
        if self.needed:
            self._draws.manual_seed(derive_seed(self._seed, "statistics", *keys))

    def set(self) -> None:
        """Set the statistics to those of the next real images, as :func:`set_statistics` does."""
        if self.needed:
            self._recorded(rows_of_all_classes(*self._by_class, self._draws), images=self._images)

    def _forward(self, rows: Tensor, *, images: Tensor) -> None:
        with self._compute.autocast():
            set_statistics(self._network, self._compute.prepared(to_float(images[rows])))
