"""What is matched between real and synthetic images: gradients, features, or both."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .features import embedder_of
from .ops import feature_distance, gradient_distance, select_layers


class Match(NamedTuple):
    """A distance, and what is needed to carry it to the pixels in one backward pass."""

    distance: Tensor
    """() the value, detached."""
    outputs: list[Tensor]
    """Tensors that depend on the synthetic images."""
    upstream: list[Tensor]
    """The derivative of the distance in each of them."""

    def pixel_gradient(self, pixels: Tensor) -> Tensor:
        """The derivative of the distance in ``pixels``, which the synthetic images were made from."""
        return torch.autograd.grad(self.outputs, pixels, grad_outputs=self.upstream)[0]


@dataclass(frozen=True)
class GradientMatching:
    """Distance between the parameter gradients of the cross-entropy (DC; IDC and DREAM with ``conv`` layers).

    Attributes:
        metric: of :func:`dream_accel.gradient_distance`.
        layers: layer rule of the same, or names of the network's parameters.
    """

    metric: str = "mse"
    layers: str | tuple[str, ...] = "conv"

    def __call__(self, network: nn.Module, real: Tensor, synthetic: Tensor, label: int) -> Match:
        """Compare images of one class, (n, C, H, W) normalised."""
        named = dict(network.named_parameters())
        parameters = [list(named.values())[i] for i in select_layers(named, self.layers)]
        g_real = torch.autograd.grad(_class_loss(network, real, label), parameters)
        g_synthetic = torch.autograd.grad(_class_loss(network, synthetic, label), parameters, create_graph=True)
        distance, upstream = gradient_distance(g_real, g_synthetic, self.metric, "all", return_grads=True)
        return Match(distance, list(g_synthetic), upstream)


@dataclass(frozen=True)
class FeatureMatching:
    """Distance between the mean features of a batch (DM; the term DREAM+ adds).

    Attributes:
        metric: of :func:`dream_accel.feature_distance`; ``"mse"`` in DM and DREAM+.
        weight: factor on the distance.
    """

    metric: str = "mse"
    weight: float = 1.0

    def __call__(self, network: nn.Module, real: Tensor, synthetic: Tensor, label: int) -> Match:
        """Compare images of one class, (n, C, H, W) normalised."""
        embed = embedder_of(network)
        with torch.no_grad():
            real_features = embed(real)
        features = embed(synthetic)
        distance, upstream = feature_distance([real_features], [features], self.metric, return_grads=True)
        return Match(self.weight * distance, [features], [self.weight * upstream[0]])


@dataclass(frozen=True)
class Sum:
    """Several objectives added up."""

    terms: tuple[GradientMatching | FeatureMatching, ...]

    def __call__(self, network: nn.Module, real: Tensor, synthetic: Tensor, label: int) -> Match:
        """Compare images of one class, (n, C, H, W) normalised."""
        matches = [term(network, real, synthetic, label) for term in self.terms]
        return Match(
            torch.stack([match.distance for match in matches]).sum(),
            [output for match in matches for output in match.outputs],
            [upstream for match in matches for upstream in match.upstream],
        )


def _class_loss(network: nn.Module, images: Tensor, label: int) -> Tensor:
    labels = torch.full((len(images),), label, dtype=torch.int64, device=images.device)
    return F.cross_entropy(network(images), labels)
