"""Training of the network on the synthetic set between matching steps (DC, DSA)."""

from __future__ import annotations

import torch
from torch import Tensor

from ..networks.training import Rows, Trainer
from ..random import generator
from ..synthetic import decode
from .compute import Compute


class SyntheticTraining:
    """Epochs over the synthetic images as they are at that moment.

    Args:
        trainer: trains the run's network.
        compute: numeric format and recording.
        shape: (C, IPC, channels, H, W) of the pixels.
        factor: multi-formation factor of the synthetic set.
        batch: batch size, images; 0 for all.
        lr: learning rate.
        seed: together with the outer iteration, names the order of the images.
    """

    def __init__(
        self, trainer: Trainer, compute: Compute, shape: tuple[int, ...], factor: int, batch: int, lr: float, seed: int
    ) -> None:
        n_classes, ipc, *image = shape
        self.trainer = trainer
        self.factor = factor
        self.lr = lr
        self.seed = seed
        self._compute = compute
        # Buffers, so that a recorded step finds the images at one address.
        n = n_classes * ipc * factor**2
        self.batch = batch or n
        self._images = torch.empty(n, *image, device=compute.device)
        self._labels = torch.arange(n_classes, device=compute.device).repeat_interleave(ipc * factor**2)
        self._rows = self._row_order(0)
        self._update = compute.recorded(self._train_rows, ("images", "labels"), [trainer.draws])

    def restart(self, iteration: int) -> None:
        """Begin the random streams of an outer iteration, and forget the velocity."""
        self.trainer.restart(self.seed, "synthetic", iteration)
        self._rows = self._row_order(iteration)

    def train(self, pixels: Tensor, epochs: int) -> None:
        """Train the network for ``epochs`` on ``pixels`` (C, IPC, channels, H, W), decoded."""
        if epochs == 0:
            return
        with torch.no_grad():
            self._images.copy_(decode(pixels.flatten(0, 1), self.factor))
        for _ in range(epochs):
            self._update(self._rows.take(len(self._images)), images=self._images, labels=self._labels)

    def _train_rows(self, rows: Tensor, *, images: Tensor, labels: Tensor) -> Tensor:
        with self._compute.autocast():
            return self.trainer.steps(rows, images=images, labels=labels, batch=self.batch, lr=self.lr)

    def _row_order(self, iteration: int) -> Rows:
        return Rows(len(self._images), generator(self.seed, "synthetic rows", iteration, device=self._compute.device))
