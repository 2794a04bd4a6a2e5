"""What is matched between real and synthetic images: gradients, features, or both."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..networks.features import embedder_of
from ..ops import feature_distance, gradient_distance, select_layers

ClassGradients = Callable[[nn.Module, Mapping[str, Tensor], Tensor, bool], list[Tensor]]
"""``(network, parameters by name, images (C, n, ...), create_graph)`` to the gradients of every class, (C, *parameter)
each; those to choose from are in ``engine/class_gradients.py``."""


class Match(NamedTuple):
    """A distance, and what is needed to carry it to the pixels in one backward pass."""

    distance: Tensor
    """the value, detached: () for one class, (C,) for every class."""
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
        parameters = list(self.parameters(network).values())
        g_real = torch.autograd.grad(_class_loss(network, real, label), parameters)
        g_synthetic = torch.autograd.grad(_class_loss(network, synthetic, label), parameters, create_graph=True)
        distance, upstream = gradient_distance(g_real, g_synthetic, self.metric, "all", return_grads=True)
        return Match(distance, list(g_synthetic), upstream)

    def every_class(self, network: nn.Module, real: Tensor, synthetic: Tensor, gradients: ClassGradients) -> Match:
        """Compare images of all classes at once, (classes, n, C, H, W) normalised."""
        parameters = self.parameters(network)
        g_real = gradients(network, parameters, real, False)
        g_synthetic = gradients(network, parameters, synthetic, True)
        distance, upstream = gradient_distance(
            g_real, g_synthetic, self.metric, "all", per_class=True, return_grads=True
        )
        return Match(distance, g_synthetic, upstream)

    def parameters(self, network: nn.Module) -> dict[str, Tensor]:
        """The parameters whose gradients are matched, by name."""
        named = dict(network.named_parameters())
        return {list(named)[i]: list(named.values())[i] for i in select_layers(named, self.layers)}


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

    def every_class(self, network: nn.Module, real: Tensor, synthetic: Tensor, gradients: ClassGradients) -> Match:
        """Compare images of all classes at once, (classes, n, C, H, W) normalised; ``gradients`` is not needed."""
        embed = embedder_of(network)
        with torch.no_grad():
            real_features = embed(real.flatten(0, 1)).unflatten(0, real.shape[:2])
        features = embed(synthetic.flatten(0, 1)).unflatten(0, synthetic.shape[:2])
        distance, upstream = feature_distance(
            [real_features], [features], self.metric, per_class=True, return_grads=True
        )
        return Match(self.weight * distance, [features], [self.weight * upstream[0]])

    def parameters(self, network: nn.Module) -> dict[str, Tensor]:
        """None: no gradients are matched."""
        return {}


@dataclass(frozen=True)
class Sum:
    """Several objectives added up."""

    terms: tuple[GradientMatching | FeatureMatching, ...]

    def __call__(self, network: nn.Module, real: Tensor, synthetic: Tensor, label: int) -> Match:
        """Compare images of one class, (n, C, H, W) normalised."""
        return _added([term(network, real, synthetic, label) for term in self.terms])

    def every_class(self, network: nn.Module, real: Tensor, synthetic: Tensor, gradients: ClassGradients) -> Match:
        """Compare images of all classes at once, (classes, n, C, H, W) normalised."""
        return _added([term.every_class(network, real, synthetic, gradients) for term in self.terms])

    def parameters(self, network: nn.Module) -> dict[str, Tensor]:
        """The parameters whose gradients any term matches, by name."""
        return {name: tensor for term in self.terms for name, tensor in term.parameters(network).items()}


def _added(matches: list[Match]) -> Match:
    return Match(
        torch.stack([match.distance for match in matches]).sum(dim=0),
        [output for match in matches for output in match.outputs],
        [upstream for match in matches for upstream in match.upstream],
    )


def _class_loss(network: nn.Module, images: Tensor, label: int) -> Tensor:
    labels = torch.full((len(images),), label, dtype=torch.int64, device=images.device)
    return F.cross_entropy(network(images), labels)
