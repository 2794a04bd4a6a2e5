"""Gradient matching: real and synthetic images shall move the network alike (DC, DSA, IDC, DREAM)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from ..ops import gradient_distance, select_layers
from .objective import ClassGradients, Match, Target


@dataclass(frozen=True)
class GradientMatching:
    """Distance between the parameter gradients of the cross-entropy of every class.

    ``sum over layers of d(grad CE(real_c), grad CE(synthetic_c))``, with ``d`` the metric. Zhao et al., ICLR 2021; IDC
    and DREAM match the ``conv`` layers.

    Attributes:
        metric: of :func:`dream_accel.gradient_distance`.
        layers: layer rule of the same, or names of the network's parameters.
    """

    metric: str = "mse"
    layers: str | tuple[str, ...] = "conv"

    def target(self, network: nn.Module, real: Tensor, gradients: ClassGradients) -> Target:
        """The gradients of the real images of every class, L tensors (C, *parameter)."""
        return gradients(network, self.parameters(network), real, False)

    def match(self, network: nn.Module, target: Target, synthetic: Tensor, gradients: ClassGradients) -> Match:
        """Compare the gradients of the synthetic images of every class with the target."""
        g_synthetic = gradients(network, self.parameters(network), synthetic, True)
        distance, upstream = gradient_distance(
            target, g_synthetic, self.metric, "all", per_class=True, return_grads=True
        )
        return Match(distance, g_synthetic, upstream)

    def parameters(self, network: nn.Module) -> dict[str, Tensor]:
        """The parameters whose gradients are compared, by name."""
        named = dict(network.named_parameters())
        return {list(named)[i]: list(named.values())[i] for i in select_layers(named, self.layers)}
