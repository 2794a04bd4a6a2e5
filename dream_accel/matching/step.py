"""The matching step: the gradient of the distance with respect to the synthetic pixels, for all classes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from ..augment import Augmentation
from ..data.convert import to_float
from ..networks.batchnorm import frozen_statistics
from ..random import derive_seed
from ..synthetic import decode
from .class_gradients import CLASS_GRADIENTS
from .objective import Objective

IMAGES_AT_ONCE = 1024
"""Maximum number of real and synthetic images in a batch of several classes; it bounds the memory."""


class MatchingStep:
    """Computes the distance between the real and the synthetic images of every class, and its pixel gradient.

    The step never waits for the device, so it can be recorded as a CUDA graph. Its random draws come from
    ``generators``.

    Args:
        objective: the loss that compares the images of some classes through a network.
        augment: names for :class:`dream_accel.augment.Augmentation`; the real and the synthetic images of a class share
            one draw.
        normalize: applied to images after augmentation.
        factor: multi-formation factor of the synthetic set.
        max_synthetic: maximum number of decoded synthetic images of a class per step; of more, a random subset is used.
        n_classes: C, the number of classes.
        device: the device of the images and of the random streams.
        class_gradients: a key of :data:`dream_accel.matching.class_gradients.CLASS_GRADIENTS`; ``"loop"`` takes one
            class at a time through the whole step, the others as many as :data:`IMAGES_AT_ONCE` allows.
        channels_last: whether images are in the channels_last memory format.

    Attributes:
        generators: one random generator per class; the step keeps these objects, because a graph records them.
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
        """Seed the random stream of every class.

        Args:
            seed: the seed of the run.
            keys: name the streams, for example by the outer iteration.
        """
        for c, draws in enumerate(self.generators):
            draws.manual_seed(derive_seed(seed, "matching", c, *keys))

    def __call__(self, network: nn.Module, images: Tensor, indices: Tensor, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the distance and the pixel gradient of every class.

        Args:
            network: the network through which both sides are compared; its batch norms use their running statistics.
            images: (N, channels, H, W) real images, uint8, or floating point in [0, 1].
            indices: (C, n) int64, the rows of ``images`` that every class is matched with.
            pixels: (C, IPC, channels, H, W) synthetic images in [0, 1].

        Returns:
            (C,) distances, and a gradient shaped like ``pixels``.
        """
        n_classes, n = indices.shape
        decoded = pixels.shape[1] * self.factor**2
        draws = [(self._subset(decoded, own), self.augment.draw(1, own)) for own in self.generators]
        at_once = self._classes_at_once(n + min(decoded, self.max_synthetic))
        groups = [range(first, min(first + at_once, n_classes)) for first in range(0, n_classes, at_once)]
        with frozen_statistics(network):
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
        """Distances and pixel gradients of some neighbouring classes, computed in one batch."""
        own = slice(classes.start, classes.stop)
        subsets, augmentations = zip(*draws[own], strict=True)
        of_classes = pixels[own].detach().requires_grad_()
        synthetic = decode(of_classes.flatten(0, 1), self.factor)
        if subsets[0] is not None:
            before = torch.arange(len(classes), device=pixels.device).unsqueeze(1) * (len(synthetic) // len(classes))
            synthetic = synthetic[(torch.stack(subsets) + before).flatten()]
        draw = torch.cat(augmentations)
        real, synthetic = (
            self._prepared(self.augment.apply(side, draw.repeat_interleave(len(side) // len(classes), dim=0)))
            for side in (to_float(images[indices[own].flatten()]), synthetic)
        )
        gradients = CLASS_GRADIENTS[self.class_gradients]
        target = self.objective.target(network, real, classes, gradients)
        match = self.objective.match(network, target, synthetic, classes, gradients)
        return match.distance, match.pixel_gradient(of_classes)

    def _subset(self, decoded: int, draws: torch.Generator) -> Tensor | None:
        """Indices of the decoded images of a class that are used; None if all are."""
        if decoded <= self.max_synthetic:
            return None
        return torch.rand(decoded, generator=draws, device=draws.device).argsort()[: self.max_synthetic]

    def _prepared(self, images: Tensor) -> Tensor:
        images = self.normalize(images)
        return images.contiguous(memory_format=torch.channels_last) if self.channels_last else images
