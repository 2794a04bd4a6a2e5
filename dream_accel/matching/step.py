"""One matching step for all classes: the gradient of the distance in the synthetic pixels."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from ..augment import Augmentation
from ..data import to_float
from ..random import derive_seed
from ..synthetic import decode
from .class_gradients import CLASS_GRADIENTS
from .objective import ClassGradients, Match

IMAGES_AT_ONCE = 1024
"""Real and synthetic images in one batch at most, where several classes are taken at once: it bounds the memory."""


class Objective(Protocol):
    """What is matched; those there are stand in ``objectives.py``."""

    def __call__(self, network: nn.Module, real: Tensor, synthetic: Tensor, label: int, /) -> Match:
        """Compare images of one class."""
        ...

    def every_class(self, network: nn.Module, real: Tensor, synthetic: Tensor, gradients: ClassGradients, /) -> Match:
        """Compare images of all classes at once."""
        ...

    def parameters(self, network: nn.Module, /) -> dict[str, Tensor]:
        """The parameters whose gradients are matched, by name."""
        ...


class MatchingStep:
    """Compares the real and the synthetic images of every class.

    A function of tensors that asks the host nothing, so that it can be recorded; its random streams are ``generators``.

    Args:
        objective: what is matched.
        augment: names for :class:`dream_accel.augment.Augmentation`; one draw for real and synthetic images of a class.
        normalize: applied after augmentation.
        factor: multi-formation factor of the synthetic set.
        max_synthetic: decoded synthetic images of a class used per step; more are subsampled.
        way: how the classes are kept apart: ``"loop"`` takes one class after another from the images to the pixels, the
            other names of :data:`dream_accel.engine.class_gradients.WAYS` take all at once.
        channels_last: memory format of the images.

    Attributes:
        generators: one per class, once ``restart`` was called; the objects stay the same.
    """

    def __init__(
        self,
        objective: Objective,
        augment: str,
        normalize: Callable[[Tensor], Tensor],
        factor: int,
        max_synthetic: int,
        way: str = "loop",
        channels_last: bool = False,
    ) -> None:
        self.objective = objective
        self.augment = Augmentation(augment)
        self.normalize = normalize
        self.factor = factor
        self.max_synthetic = max_synthetic
        self.way = way
        self.channels_last = channels_last
        self.generators: list[torch.Generator] = []

    def restart(self, n_classes: int, device: torch.device, seed: int, *keys: object) -> None:
        """Begin one random stream per class, named by ``keys``."""
        if len(self.generators) != n_classes:
            self.generators = [torch.Generator(device) for _ in range(n_classes)]
        for c, draws in enumerate(self.generators):
            draws.manual_seed(derive_seed(seed, "matching", c, *keys))

    def __call__(self, network: nn.Module, images: Tensor, indices: Tensor, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Distance and pixel gradient of every class.

        Args:
            network: what both sides are seen through.
            images: (N, ...) uint8 or float real images.
            indices: (C, n) int64, the real images of every class.
            pixels: (C, IPC, channels, H, W) synthetic images in [0, 1].

        Returns:
            (C,) distances and a gradient shaped like ``pixels``.
        """
        step = self._one_by_one if self.way == "loop" else self._all_at_once
        return step(network, images, indices, pixels)

    def _one_by_one(self, network: nn.Module, images: Tensor, indices: Tensor, pixels: Tensor) -> tuple[Tensor, Tensor]:
        distances, gradients = [], []
        for c, draws in enumerate(self.generators):
            own = pixels[c].detach().requires_grad_()
            synthetic = decode(own, self.factor)
            synthetic = synthetic if (some := self._some(len(synthetic), draws)) is None else synthetic[some]
            real, synthetic = self.augment.siamese([to_float(images[indices[c]]), synthetic], draws)
            match = self.objective(network, self._prepared(real), self._prepared(synthetic), c)
            distances.append(match.distance)
            gradients.append(match.pixel_gradient(own))
        return torch.stack(distances), torch.stack(gradients)

    def _all_at_once(
        self, network: nn.Module, images: Tensor, indices: Tensor, pixels: Tensor
    ) -> tuple[Tensor, Tensor]:
        n_classes, n = indices.shape
        decoded = pixels.shape[1] * self.factor**2
        draws = [(self._some(decoded, own), self.augment.draw(1, own)) for own in self.generators]
        group = max(1, IMAGES_AT_ONCE // (n + min(decoded, self.max_synthetic)))
        matches = [
            self._group(network, images, indices, pixels, draws, range(first, min(first + group, n_classes)))
            for first in range(0, n_classes, group)
        ]
        distances, gradients = zip(*matches, strict=True)
        return torch.cat(distances), torch.cat(gradients)

    def _group(
        self,
        network: nn.Module,
        images: Tensor,
        indices: Tensor,
        pixels: Tensor,
        draws: Sequence[tuple[Tensor | None, Tensor]],
        classes: range,
    ) -> tuple[Tensor, Tensor]:
        """The same for some neighbouring classes, in one batch."""
        some, augmentations = zip(*(draws[c] for c in classes), strict=True)
        own = pixels[classes.start : classes.stop].detach().requires_grad_()
        synthetic = decode(own.flatten(0, 1), self.factor)
        if some[0] is not None:
            decoded = len(synthetic) // len(classes)
            before = torch.arange(len(classes), device=pixels.device).unsqueeze(1) * decoded
            synthetic = synthetic[(torch.stack(some) + before).flatten()]
        draw = torch.cat(augmentations)
        sides = [
            self._prepared(self.augment.apply(side, draw.repeat_interleave(len(side) // len(classes), dim=0)))
            for side in (to_float(images[indices[classes.start : classes.stop].flatten()]), synthetic)
        ]
        real, synthetic = (side.unflatten(0, (len(classes), -1)) for side in sides)
        gradients = functools.partial(CLASS_GRADIENTS[self.way], first=classes.start)
        match = self.objective.every_class(network, real, synthetic, gradients)
        return match.distance, match.pixel_gradient(own)

    def _some(self, decoded: int, draws: torch.Generator) -> Tensor | None:
        """Which of a class's decoded images are used; None for all."""
        if decoded <= self.max_synthetic:
            return None
        return torch.rand(decoded, generator=draws, device=draws.device).argsort()[: self.max_synthetic]

    def _prepared(self, images: Tensor) -> Tensor:
        images = self.normalize(images)
        return images.contiguous(memory_format=torch.channels_last) if self.channels_last else images
