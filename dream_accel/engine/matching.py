"""One matching step for all classes: the gradient of the distance in the synthetic pixels."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..augment import Augmentation
from ..features import to_float
from ..objectives import Match
from ..random import generator
from ..synthetic import decode

Objective = Callable[[nn.Module, Tensor, Tensor, int], Match]


class MatchingStep:
    """Compares the real and the synthetic images of every class, one class after another.

    Args:
        objective: what is matched.
        augment: names for :class:`dream_accel.augment.Augmentation`; one draw for real and synthetic images of a class.
        normalize: applied after augmentation.
        factor: multi-formation factor of the synthetic set.
        max_synthetic: decoded synthetic images of a class used per step; more are subsampled.
    """

    def __init__(
        self,
        objective: Objective,
        augment: str,
        normalize: Callable[[Tensor], Tensor],
        factor: int,
        max_synthetic: int,
    ) -> None:
        self.objective = objective
        self.augment = Augmentation(augment)
        self.normalize = normalize
        self.factor = factor
        self.max_synthetic = max_synthetic

    def restart(self, n_classes: int, device: torch.device, seed: int, *keys: object) -> None:
        """Open one random stream per class, named by ``keys``."""
        self._draws = [generator(seed, "matching", c, *keys, device=device) for c in range(n_classes)]

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
        distances, gradients = [], []
        for c, draws in enumerate(self._draws):
            own = pixels[c].detach().requires_grad_()
            match = self._match(network, to_float(images[indices[c]]), own, c, draws)
            distances.append(match.distance)
            gradients.append(match.pixel_gradient(own))
        return torch.stack(distances), torch.stack(gradients)

    def _match(self, network: nn.Module, real: Tensor, own: Tensor, c: int, draws: torch.Generator) -> Match:
        synthetic = decode(own, self.factor)
        if len(synthetic) > self.max_synthetic:
            some = torch.randperm(len(synthetic), generator=draws, device=draws.device)[: self.max_synthetic]
            synthetic = synthetic[some]
        real, synthetic = self.augment.siamese([real, synthetic], draws)
        return self.objective(network, self.normalize(real), self.normalize(synthetic), c)
