"""Calibrated feature matching: mean features brought together, and synthetic images classified as their class (DM+)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..networks.features import features_and_logits
from ..ops import feature_distance
from .objective import ClassGradients, Match, Target


@dataclass(frozen=True)
class CalibratedFeatureMatching:
    """The distance of mean features plus the cross-entropy of the synthetic images, in one forward pass.

    ``d(mean f(real_c), mean f(synthetic_c)) + weight * mean CE(h(f(synthetic_c)), c)``, with ``d`` the metric, ``f``
    the features that the last layer ``h`` of the network classifies. Mean features alone leave the images of a class
    free to move towards another one; the second term holds them where a trained network recognises them.

    Attributes:
        weight: factor of the cross-entropy, in nats; 0 leaves feature matching.
        metric: a metric of :func:`dream_accel.feature_distance`.
    """

    weight: float
    metric: str = "mse"

    @property
    def real_side(self) -> str:
        """The mean features, whatever metric and weight."""
        return "mean features"

    def target(self, network: nn.Module, real: Tensor, classes: range, gradients: ClassGradients) -> Target:
        """Compute the features of the real images, one tensor (C, n, *feature); ``gradients`` is not used."""
        with torch.no_grad():
            features, _ = features_and_logits(network, real)
        return [features.unflatten(0, (len(classes), -1))]

    def match(
        self, network: nn.Module, target: Target, synthetic: Tensor, classes: range, gradients: ClassGradients
    ) -> Match:
        """Compute distance and cross-entropy of every class."""
        features, logits = (side.unflatten(0, (len(classes), -1)) for side in features_and_logits(network, synthetic))
        distance, upstream = feature_distance(target, [features], self.metric, per_class=True, return_grads=True)
        loss, of_logits = self._cross_entropy(logits.detach(), classes)
        return Match(distance + self.weight * loss, [features, logits], [upstream[0], self.weight * of_logits])

    def _cross_entropy(self, logits: Tensor, classes: range) -> tuple[Tensor, Tensor]:
        """Mean cross-entropy (C,) of logits (C, m, classes of the network), and its derivative."""
        m, n_outputs = logits.shape[1:]
        labels = torch.arange(classes.start, classes.stop, device=logits.device)
        log_probabilities = F.log_softmax(logits, dim=2)
        own = F.one_hot(labels, n_outputs).unsqueeze(1).to(logits.dtype)
        loss = -(log_probabilities * own).sum(dim=2).mean(dim=1)
        return loss, (log_probabilities.exp() - own) / m

    def reduced(self, target: Target) -> Target:
        """Return the mean features of every class, (C, 1, *feature)."""
        return [features.mean(dim=1, keepdim=True) for features in target]

    def parameters(self, network: nn.Module) -> dict[str, Tensor]:
        """Return an empty dict, since no gradients are compared."""
        return {}
