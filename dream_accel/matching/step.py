"""One matching step for all classes: the gradient of the distance in the synthetic pixels."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from ..augment import Augmentation
from ..data.convert import to_float
from ..random import derive_seed
from ..synthetic import decode
from .class_gradients import CLASS_GRADIENTS
from .objective import Objective

IMAGES_AT_ONCE = 1024
"""Real and synthetic images in one batch at most, where several classes are taken at once: it bounds the memory."""


class MatchingStep:
    """Compares the real and the synthetic images of every class.

    A function of tensors that asks the host nothing, so that it can be recorded; its random streams are ``generators``.

    Args:
        objective: compares the images of some classes through a network.
        augment: names for :class:`dream_accel.augment.Augmentation`; one draw for real and synthetic images of a class.
        normalize: applied after augmentation.
        factor: multi-formation factor of the synthetic set.
        max_synthetic: decoded synthetic images of a class used per step; more are subsampled.
        n_classes: C, the number of classes.
        device: of the images and the random streams.
        class_gradients: one of :data:`dream_accel.matching.class_gradients.CLASS_GRADIENTS`; ``"loop"`` takes one class
            at a time through the whole step, the others as many as :data:`IMAGES_AT_ONCE` allows.
        channels_last: memory format of the images.

    Attributes:
        generators: one per class; the objects stay the same.
    """

    def __init__(
        self,
        objective: Objective,
        augment: str,
        normalize: Callable[[Tensor], Tensor],
        factor: int,
        max_synthetic: int,
        n_classes: int,
        device: torch.device,
        class_gradients: str = "loop",
        channels_last: bool = False,
    ) -> None:
        self.objective = objective
        self.augment = Augmentation(augment)
        self.normalize = normalize
        self.factor = factor
        self.max_synthetic = max_synthetic
        self.class_gradients = class_gradients
        self.channels_last = channels_last
        self.generators = [torch.Generator(device) for _ in range(n_classes)]

    def restart(self, seed: int, *keys: object) -> None:
        """Begin one random stream per class, named by ``keys``."""
        for c, draws in enumerate(self.generators):
            draws.manual_seed(derive_seed(seed, "matching", c, *keys))

    def __call__(self, network: nn.Module, images: Tensor, indices: Tensor, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Distance and pixel gradient of every class.

        Args:
            network: both sides are compared through it.
            images: (N, ...) uint8 or float real images.
            indices: (C, n) int64, the real images of every class.
            pixels: (C, IPC, channels, H, W) synthetic images in [0, 1].

        Returns:
            (C,) distances and a gradient shaped like ``pixels``.
        """
        n_classes, n = indices.shape
        decoded = pixels.shape[1] * self.factor**2
        draws = [(self._subset(decoded, own), self.augment.draw(1, own)) for own in self.generators]
        at_once = self._classes_at_once(n + min(decoded, self.max_synthetic))
        groups = [range(first, min(first + at_once, n_classes)) for first in range(0, n_classes, at_once)]
        matches = [self._match(network, images, indices, pixels, draws, classes) for classes in groups]
        distances, gradients = zip(*matches, strict=True)
        return torch.cat(distances), torch.cat(gradients)

    def _classes_at_once(self, images_per_class: int) -> int:
        return 1 if self.class_gradients == "loop" else max(1, IMAGES_AT_ONCE // images_per_class)

    def _match(
        self,
        network: nn.Module,
        images: Tensor,
        indices: Tensor,
        pixels: Tensor,
        draws: Sequence[tuple[Tensor | None, Tensor]],
        classes: range,
    ) -> tuple[Tensor, Tensor]:
        """Distances and pixel gradients of some neighbouring classes, in one batch."""
        own = slice(classes.start, classes.stop)
        subsets, augmentations = zip(*draws[own], strict=True)
        of_classes = pixels[own].detach().requires_grad_()
        synthetic = decode(of_classes.flatten(0, 1), self.factor)
        if subsets[0] is not None:
            before = torch.arange(len(classes), device=pixels.device).unsqueeze(1) * (len(synthetic) // len(classes))
            synthetic = synthetic[(torch.stack(subsets) + before).flatten()]
        draw = torch.cat(augmentations)
        sides = [
            self._prepared(self.augment.apply(side, draw.repeat_interleave(len(side) // len(classes), dim=0)))
            for side in (to_float(images[indices[own].flatten()]), synthetic)
        ]
        real, synthetic = (side.unflatten(0, (len(classes), -1)) for side in sides)
        gradients = functools.partial(CLASS_GRADIENTS[self.class_gradients], first=classes.start)
        target = self.objective.target(network, real, gradients)
        match = self.objective.match(network, target, synthetic, gradients)
        return match.distance, match.pixel_gradient(of_classes)

    def _subset(self, decoded: int, draws: torch.Generator) -> Tensor | None:
        """The decoded images of a class that are used; None for all."""
        if decoded <= self.max_synthetic:
            return None
        return torch.rand(decoded, generator=draws, device=draws.device).argsort()[: self.max_synthetic]

    def _prepared(self, images: Tensor) -> Tensor:
        images = self.normalize(images)
        return images.contiguous(memory_format=torch.channels_last) if self.channels_last else images
