"""Gradient matching: brings the gradients of real and synthetic images together (DC, DSA, IDC, DREAM)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from ..errors import DreamAccelError
from ..ops import gradient_distance, select_layers
from .objective import ClassGradients, Match, Target


@dataclass(frozen=True)
class GradientMatching:
    """The distance between the parameter gradients of the cross-entropy of every class.

    ``sum over layers of d(grad CE(real_c), grad CE(synthetic_c))``, with ``d`` the metric. Source: DC, Zhao et al.,
    ICLR 2021; IDC and DREAM match the ``conv`` layers.

    Attributes:
        metric: a metric of :func:`dream_accel.gradient_distance`.
        layers: a layer rule of that function, or names of the network's parameters.
    """

    metric: str = "mse"
    layers: str | tuple[str, ...] = "conv"

    @property
    def real_side(self) -> str:
        """The gradients of the matched layers, whatever the metric."""
        return f"gradients of {self.layers if isinstance(self.layers, str) else ', '.join(self.layers)}"

    def target(self, network: nn.Module, real: Tensor, classes: range, gradients: ClassGradients) -> Target:
        """Compute the gradients of the real images of every class, L tensors (C, *parameter)."""
        return gradients(network, self.parameters(network), real, classes, False)

    def match(
        self, network: nn.Module, target: Target, synthetic: Tensor, classes: range, gradients: ClassGradients
    ) -> Match:
        """Compute the distance between the gradients of the synthetic images and those of the target."""
        g_synthetic = gradients(network, self.parameters(network), synthetic, classes, True)
        distance, upstream = gradient_distance(
            target, g_synthetic, self.metric, "all", per_class=True, return_grads=True
        )
        return Match(distance, g_synthetic, upstream)

    def reduced(self, target: Target) -> Target:
        """Return the target itself: one gradient per class."""
        return target

    def parameters(self, network: nn.Module) -> dict[str, Tensor]:
        """Return the parameters whose gradients are compared, by name.

        Raises:
            DreamAccelError: the network has none.
        """
        named: dict[str, Tensor] = dict(network.named_parameters())
        chosen = {list(named)[i]: list(named.values())[i] for i in select_layers(named, self.layers)}
        if not chosen:
            raise DreamAccelError(
                f"layers is {self.layers!r}, and {type(network).__name__} has no such parameters: use layers weights"
            )
        return chosen
