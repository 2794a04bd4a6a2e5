"""Feature matching: real and synthetic images shall have the same mean features (DM; the term DREAM+ adds)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..networks.features import embedder_of
from ..ops import feature_distance
from .objective import ClassGradients, Match, Target


@dataclass(frozen=True)
class FeatureMatching:
    """Distance between the mean features of the real and of the synthetic images of every class.

    ``weight * d(mean f(real_c), mean f(synthetic_c))``, with ``d`` the metric. Zhao and Bilen, WACV 2023.

    Attributes:
        metric: of :func:`dream_accel.feature_distance`; ``"mse"`` in DM and DREAM+.
        weight: factor on the distance.
    """

    metric: str = "mse"
    weight: float = 1.0

    def target(self, network: nn.Module, real: Tensor, gradients: ClassGradients) -> Target:
        """The features of the real images, one tensor (C, n, *feature); ``gradients`` is not needed."""
        with torch.no_grad():
            return [_features(network, real)]

    def match(self, network: nn.Module, target: Target, synthetic: Tensor, gradients: ClassGradients) -> Match:
        """Compare the mean features of the synthetic images of every class with those of the target."""
        features = _features(network, synthetic)
        distance, upstream = feature_distance(target, [features], self.metric, per_class=True, return_grads=True)
        return Match(self.weight * distance, [features], [self.weight * upstream[0]])

    def parameters(self, network: nn.Module) -> dict[str, Tensor]:
        """None: no gradients are compared."""
        return {}


def _features(network: nn.Module, images: Tensor) -> Tensor:
    """(C, n, *feature) of images (C, n, channels, H, W), all in one forward pass."""
    return embedder_of(network)(images.flatten(0, 1)).unflatten(0, images.shape[:2])
