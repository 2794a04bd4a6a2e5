"""SGD training of a network on augmented images, shared by the matching loop and the evaluation."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..augment import Augmentation, cutmix
from ..data import to_float
from ..random import derive_seed
from .batchnorm import several_values
from .parts import WHOLE, BatchParts


class Rows:
    """Row numbers 0..n-1 in random order, drawn anew whenever they are used up.

    Args:
        n: number of rows.
        draws: the generator of the orders; the rows are on its device.
    """

    def __init__(self, n: int, draws: torch.Generator) -> None:
        self._n = n
        self._draws = draws
        self._rest = torch.empty(0, dtype=torch.int64, device=draws.device)

    def batches(self, count: int, size: int) -> Iterator[Tensor]:
        """The next ``count`` rows in batches of at most ``size``."""
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

    The steps are functions of tensors that never wait for the device and change parameters and velocities in place, so
    that they can be recorded in CUDA graphs.

    Args:
        network: trained in place.
        normalize: applied after augmentation, which works on pixels in [0, 1].
        lr: learning rate, as in ``torch.optim.SGD``.
        momentum: as in ``torch.optim.SGD``, 0 to 1.
        weight_decay: as in ``torch.optim.SGD``.
        augment: names for :class:`dream_accel.augment.Augmentation`, one draw per image.
        cutmix_probability: per batch, 0 to 1.
        device: of the network and of the draws.
        seed: together with ``keys`` names the random stream.
        keys: numbers and strings, such as the outer iteration.
        channels_last: memory format of the images.
        parts: into which the gradient of a batch is divided. Batch norms take the statistics of a part.

    Attributes:
        draws: the generator of all random numbers of the steps, which a recording has to register.
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
        channels_last: bool = False,
        parts: BatchParts = WHOLE,
    ) -> None:
        self.network = network
        self.normalize = normalize
        self.lr, self.momentum, self.weight_decay = lr, momentum, weight_decay
        self.augment = Augmentation(augment)
        self.cutmix_probability = cutmix_probability
        self.channels_last = channels_last
        self.parts = parts
        self.draws = torch.Generator(device)
        self._parameters: list[Tensor] = list(network.parameters())
        self._velocity = [torch.zeros_like(parameter) for parameter in self._parameters]
        self.restart(seed, *keys)

    def restart(self, seed: int, *keys: object) -> None:
        """Set the velocity to zero and begin the random stream that ``seed`` and ``keys`` name."""
        self.draws.manual_seed(derive_seed(seed, "training", *keys))
        torch._foreach_zero_(self._velocity)

    def step(self, images: Tensor, labels: Tensor) -> Tensor:
        """Take one step.

        Args:
            images: (n, C, H, W) floating point in [0, 1].
            labels: (n,) int64.

        Returns:
            the loss (), detached.

        Raises:
            DreamAccelError: a batch of one image leaves a batch norm one value per channel.
        """
        images = self.augment(images, self.draws)
        images, partners, weight = cutmix(images, labels, self.cutmix_probability, self.draws)
        images = self.normalize(images)
        if self.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        loss, *gradients = self._derivatives(images, labels, partners, weight)
        with torch.no_grad():
            decayed = torch._foreach_add(gradients, self._parameters, alpha=self.weight_decay)
            torch._foreach_mul_(self._velocity, self.momentum)
            torch._foreach_add_(self._velocity, decayed)
            torch._foreach_add_(self._parameters, self._velocity, alpha=-self.lr)
        return loss

    def _derivatives(self, images: Tensor, labels: Tensor, partners: Tensor, weight: Tensor) -> list[Tensor]:
        """The loss () of a batch, and its gradients in the parameters."""
        n = len(images)

        def of(rows: slice) -> list[Tensor]:
            with several_values():
                logits = self.network(images[rows])
            own, partner = (F.cross_entropy(logits, each[rows]) for each in (labels, partners))
            loss = weight * own + (1 - weight) * partner
            if self.parts.count > 1:
                loss = loss * (len(logits) / n)
            return [loss.detach(), *torch.autograd.grad(loss, self._parameters)]

        if self.parts.count == 1:
            return of(slice(n))
        return self.parts.added(n, of, [images.new_empty(()), *self._parameters])

    def steps(self, rows: Tensor, *, images: Tensor, labels: Tensor, batch: int, lr: float) -> Tensor:
        """Take steps on the given rows of a data set in turn.

        Args:
            rows: (n,) int64, at least one.
            images: (N, C, H, W) uint8, or float in [0, 1].
            labels: (N,) int64.
            batch: rows of a step at most.
            lr: learning rate of these steps; an argument, so that each has its own recording.

        Returns:
            the loss () of the last step, detached.
        """
        self.lr = lr
        for some in rows.split(batch):
            loss = self.step(to_float(images[some]), labels[some])
        return loss

    def decay_lr(self, factor: float) -> None:
        """Multiply the learning rate."""
        self.lr *= factor
