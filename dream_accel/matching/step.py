"""The matching step: the gradient of the distance with respect to the synthetic pixels, for all classes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from ..augment import Augmentation
from ..data.convert import to_float
from ..networks.batchnorm import frozen_statistics
from ..random import Streams, derive_seed
from ..synthetic import decode
from .class_gradients import CLASS_GRADIENTS
from .objective import Match, Objective, Target, map_tensors

Watch = Callable[[nn.Module, range, Target, Match], None]
"""Looks at the match of some classes before it reaches their pixels."""

IMAGES_AT_ONCE = 2048
"""Maximum number of real and synthetic images in a batch of several classes; it bounds the memory.

Ten classes of 128 real and 40 synthetic images are one batch.
"""
FUSED_AT_ONCE = 160
"""The same for ``fused`` on CPUs, where the activations of larger batches leave the caches."""


class MatchingStep:
    """Computes the distance between the real and the synthetic images of every class, and its pixel gradient.

    The step never waits for the device, so it can be recorded as a CUDA graph.

    Args:
        objective: the loss that compares the images of some classes through a network.
        augment: names for :class:`dream_accel.augment.Augmentation`; the real and the synthetic images of a class share
            one draw.
        normalize: applied to images after augmentation.
        factor: multi-formation factor of the synthetic set.
        max_synthetic: maximum number of decoded synthetic images of a class per step; of more, a random subset is used.
        classes: the labels of the C classes that the step compares.
        device: the device of the images and of the random streams.
        class_gradients: a key of :data:`dream_accel.matching.class_gradients.CLASS_GRADIENTS`; ``"loop"`` takes one
            class at a time through the whole step, the others as many as :data:`IMAGES_AT_ONCE` allows, or
            :data:`FUSED_AT_ONCE`.
        channels_last: whether images are in the channels_last memory format.
        parts: divides the number of images of a batch of several classes, where memory is short.
        watch: called with the network, the classes, their target and their match in every batch; default: nothing.
            It may wait for the device, so a step with one is not recorded.

    Attributes:
        draws: one random stream per class; the step keeps the object, because a graph records it.
    """

    def __init__(
        self,
        objective: Objective,
        augment: str,
        normalize: Callable[[Tensor], Tensor],
        factor: int,
        max_synthetic: int,
        classes: range,
        device: torch.device,
        class_gradients: str = "loop",
        channels_last: bool = False,
        parts: int = 1,
        watch: Watch | None = None,
    ) -> None:
        self.objective = objective
        self.augment = Augmentation(augment)
        self.normalize = normalize
        self.factor = factor
        self.max_synthetic = max_synthetic
        self.class_gradients = class_gradients
        self.channels_last = channels_last
        self.parts = parts
        self.watch = watch
        self.classes = classes
        self.device = device
        self.draws = Streams(len(classes), device)

    def restart(self, seed: int, *keys: object) -> None:
        """Seed the random stream of every class.

        Args:
            seed: the seed of the run.
            keys: name the streams, for example by the outer iteration.
        """
        self.draws.restart([derive_seed(seed, "matching", c, *keys) for c in self.classes])

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
        subsets = self._subsets(pixels)
        augmentations = self.draw_augmentations(self.draws)
        groups = self._groups(indices.shape[1] + self._synthetic_per_class(pixels))
        matches = []
        for own in groups:
            target = self._target(network, images, indices[own], augmentations[own], own)
            matches.append(self._match(network, target, pixels[own], subsets, augmentations[own], own))
        return _joined(matches)

    def target(self, network: nn.Module, images: Tensor, indices: Tensor, augmentations: Tensor) -> Target:
        """Compute the real side of a step, which does not depend on the synthetic images.

        Args:
            network: the network through which both sides are compared.
            images: as in a call.
            indices: as in a call.
            augmentations: (C, k) one draw per class, of :meth:`draw_augmentations`.

        Returns:
            the target of all classes, detached, as small as the objective can make it.
        """
        targets = [
            self.objective.reduced(self._target(network, images, indices[own], augmentations[own], own))
            for own in self._groups(indices.shape[1])
        ]
        return map_tensors(lambda *parts: torch.cat(parts), *targets)

    def target_of_class(
        self, network: nn.Module, images: Tensor, rows: Tensor, augmentations: Tensor, c: int
    ) -> Target:
        """Compute the target of one class from any number of its images.

        Args:
            network: the network through which both sides are compared.
            images: as in a call.
            rows: (n,) int64, images of the class.
            augmentations: (C, k), of which that of the class is used.
            c: the place of the class among those of the step.

        Returns:
            the target of the class, detached, as small as the objective can make it.
        """
        own = slice(c, c + 1)
        return self.objective.reduced(self._target(network, images, rows.unsqueeze(0), augmentations[own], own))

    def match(self, network: nn.Module, target: Target, augmentations: Tensor, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Compute what a call does, from a target computed before with the same network and augmentations.

        Args:
            network: the network that the target was computed with.
            target: of :meth:`target`, in the dtype of its computation.
            augmentations: those of the target.
            pixels: as in a call.

        Returns:
            as in a call.
        """
        subsets = self._subsets(pixels)
        matches = []
        for own in self._groups(self._synthetic_per_class(pixels)):
            part = map_tensors(lambda tensor, own=own: tensor[own], target)
            matches.append(self._match(network, part, pixels[own], subsets, augmentations[own], own))
        return _joined(matches)

    def draw_augmentations(self, draws: Streams) -> Tensor:
        """Draw one augmentation per class, (C, k), from a stream of each."""
        return draws.uniform(math.prod(self.augment.shape)).unflatten(1, self.augment.shape)

    def _decoded(self, pixels: Tensor) -> int:
        return pixels.shape[1] * self.factor**2

    def _synthetic_per_class(self, pixels: Tensor) -> int:
        return min(self._decoded(pixels), self.max_synthetic)

    def _groups(self, images_per_class: int) -> list[slice]:
        """Neighbouring classes that are computed in one batch."""
        n_classes = len(self.classes)
        fused = FUSED_AT_ONCE if self.device.type == "cpu" else IMAGES_AT_ONCE
        most = {"loop": 1, "fused": fused}.get(self.class_gradients, IMAGES_AT_ONCE)
        at_once = max(1, most // self.parts // images_per_class)
        return [slice(first, min(first + at_once, n_classes)) for first in range(0, n_classes, at_once)]

    def _target(self, network: nn.Module, images: Tensor, indices: Tensor, augmentations: Tensor, own: slice) -> Target:
        real = self._prepared(to_float(images[indices.flatten()]), augmentations)
        with frozen_statistics(network):
            return self.objective.target(network, real, self.classes[own], CLASS_GRADIENTS[self.class_gradients])

    def _match(
        self,
        network: nn.Module,
        target: Target,
        pixels: Tensor,
        subsets: Tensor | None,
        augmentations: Tensor,
        own: slice,
    ) -> tuple[Tensor, Tensor]:
        """Distances and pixel gradients of some neighbouring classes, computed in one batch."""
        classes = self.classes[own]
        pixels = pixels.detach().requires_grad_()
        synthetic = decode(pixels.flatten(0, 1), self.factor)
        if subsets is not None:
            before = torch.arange(len(classes), device=pixels.device).unsqueeze(1) * (len(synthetic) // len(classes))
            synthetic = synthetic[(subsets[own] + before).flatten()]
        synthetic = self._prepared(synthetic, augmentations)
        with frozen_statistics(network):
            match = self.objective.match(network, target, synthetic, classes, CLASS_GRADIENTS[self.class_gradients])
        if self.watch is not None:
            self.watch(network, classes, target, match)
        return match.distance, match.pixel_gradient(pixels)

    def _subsets(self, pixels: Tensor) -> Tensor | None:
        """(C, n) indices of the decoded images of every class that are used; None if all are."""
        decoded = self._decoded(pixels)
        if decoded <= self.max_synthetic:
            return None
        return self.draws.uniform(decoded).argsort(dim=1)[:, : self.max_synthetic]

    def _prepared(self, images: Tensor, augmentations: Tensor) -> Tensor:
        """Augment images (C * n, ...), each class with its own draw, and bring them to the form networks take."""
        draws = augmentations.repeat_interleave(len(images) // len(augmentations), dim=0)
        images = self.normalize(self.augment.apply(images, draws))
        return images.contiguous(memory_format=torch.channels_last) if self.channels_last else images


def _joined(matches: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    if len(matches) == 1:
        return matches[0]
    distances, gradients = zip(*matches, strict=True)
    return torch.cat(distances), torch.cat(gradients)
