"""Training a network on images, as the matching loop and the evaluation both do."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..augment import Augmentation, cutmix
from ..random import generator


class Rows:
    """Row numbers 0..n-1 in random order, drawn anew whenever they are used up.

    Args:
        n: how many rows there are.
        draws: where the orders are drawn from; the rows live on its device.
    """

    def __init__(self, n: int, draws: torch.Generator) -> None:
        self._n = n
        self._draws = draws
        self._rest = torch.empty(0, dtype=torch.int64, device=draws.device)

    def batches(self, count: int, size: int) -> Iterator[Tensor]:
        """The next ``count`` rows, at most ``size`` at a time."""
        while count > 0:
            yield self.take(min(size, count))
            count -= size

    def take(self, count: int) -> Tensor:
        """The next ``count`` rows, (count,) int64."""
        while len(self._rest) < count:
            order = torch.randperm(self._n, generator=self._draws, device=self._draws.device)
            self._rest = torch.cat([self._rest, order])
        rows, self._rest = self._rest[:count], self._rest[count:]
        return rows


class Trainer:
    """SGD steps on augmented, CutMixed, normalised batches.

    Args:
        network: trained in place.
        normalize: applied after augmentation, which works on pixels in [0, 1].
        lr, momentum, weight_decay: of SGD.
        augment: names for :class:`dream_accel.augment.Augmentation`, one draw per image.
        cutmix_probability: per batch.
        seed: together with ``keys`` names the random stream.
    """

    def __init__(
        self,
        network: nn.Module,
        normalize: Callable[[Tensor], Tensor],
        *,
        lr: float,
        momentum: float,
        weight_decay: float,
        augment: str,
        cutmix_probability: float,
        device: torch.device,
        seed: int,
        keys: tuple[object, ...],
    ) -> None:
        self.network = network
        self.normalize = normalize
        self.augment = Augmentation(augment)
        self.cutmix_probability = cutmix_probability
        self.draws = generator(seed, "training", *keys, device=device)
        self.optimizer = torch.optim.SGD(network.parameters(), lr=lr, momentum=momentum, weight_decay=weight_decay)

    def step(self, images: Tensor, labels: Tensor) -> Tensor:
        """One step on images (n, C, H, W) in [0, 1] and labels (n,); the loss, detached."""
        images = self.augment(images, self.draws)
        images, partners, weight = cutmix(images, labels, self.cutmix_probability, self.draws)
        logits = self.network(self.normalize(images))
        loss = weight * F.cross_entropy(logits, labels) + (1 - weight) * F.cross_entropy(logits, partners)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    def decay_lr(self, factor: float) -> None:
        """Multiply the learning rate."""
        for group in self.optimizer.param_groups:
            group["lr"] *= factor
