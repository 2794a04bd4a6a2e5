"""One matching step for all classes: the gradient of the distance in the synthetic pixels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor, nn

from ..augment import Augmentation
from ..features import to_float
from ..objectives import ClassGradients, Match
from ..random import derive_seed
from ..synthetic import decode
from .class_gradients import CLASS_GRADIENTS


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
        n_classes = len(indices)
        pixels = pixels.detach().requires_grad_()
        synthetic = decode(pixels.flatten(0, 1), self.factor)
        decoded = len(synthetic) // n_classes
        some, augmentations = [], []
        for draws in self.generators:
            some.append(self._some(decoded, draws))
            augmentations.append(self.augment.draw(1, draws))
        if some[0] is not None:
            first = torch.arange(n_classes, device=pixels.device).unsqueeze(1) * decoded
            synthetic = synthetic[(torch.stack(some) + first).flatten()]  # type: ignore[arg-type]
        draw = torch.cat(augmentations)
        sides = [
            self._prepared(self.augment.apply(side, draw.repeat_interleave(len(side) // n_classes, dim=0)))
            for side in (to_float(images[indices.flatten()]), synthetic)
        ]
        real, synthetic = (side.unflatten(0, (n_classes, -1)) for side in sides)
        match = self.objective.every_class(network, real, synthetic, CLASS_GRADIENTS[self.way])
        return match.distance, match.pixel_gradient(pixels)

    def _some(self, decoded: int, draws: torch.Generator) -> Tensor | None:
        """Which of a class's decoded images are used; None for all."""
        if decoded <= self.max_synthetic:
            return None
        return torch.rand(decoded, generator=draws, device=draws.device).argsort()[: self.max_synthetic]

    def _prepared(self, images: Tensor) -> Tensor:
        images = self.normalize(images)
        return images.contiguous(memory_format=torch.channels_last) if self.channels_last else images
