"""Feature matching: brings the mean features of real and synthetic images together (DM, and a term of DREAM+)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..networks.features import embedder_of
from ..ops import feature_distance
from .objective import ClassGradients, Match, Target


@dataclass(frozen=True)
class FeatureMatching:
    """The distance between the mean features of the real and of the synthetic images of every class.

    ``weight * d(mean f(real_c), mean f(synthetic_c))``, with ``d`` the metric and ``f`` the features of the
    network. Source: DM, Zhao and Bilen, WACV 2023.

    Attributes:
        metric: a metric of :func:`dream_accel.feature_distance`; ``"mse"`` in DM and DREAM+.
        weight: factor of the distance.
    """

    metric: str = "mse"
    weight: float = 1.0

    @property
    def real_side(self) -> str:
        """The mean features, whatever metric and weight."""
        return "mean features"

    def target(self, network: nn.Module, real: Tensor, classes: range, gradients: ClassGradients) -> Target:
        """Compute the features of the real images, one tensor (C, n, *feature); ``gradients`` is not used."""
        with torch.no_grad():
            return [_features(network, real, classes)]

    def match(
        self, network: nn.Module, target: Target, synthetic: Tensor, classes: range, gradients: ClassGradients
    ) -> Match:
        """Compute the distance between the mean features of the synthetic images and those of the target."""
        features = _features(network, synthetic, classes)
        distance, upstream = feature_distance(target, [features], self.metric, per_class=True, return_grads=True)
        return Match(self.weight * distance, [features], [self.weight * upstream[0]])

    def reduced(self, target: Target) -> Target:
        """Return the mean features of every class, (C, 1, *feature)."""
        return [features.mean(dim=1, keepdim=True) for features in target]

    def parameters(self, network: nn.Module) -> dict[str, Tensor]:
        """Return an empty dict, since no gradients are compared."""
        return {}


def _features(network: nn.Module, images: Tensor, classes: range) -> Tensor:
    """Features (C, n, *feature) of images (C * n, channels, H, W), computed in one forward pass."""
    return embedder_of(network)(images).unflatten(0, (len(classes), -1))
