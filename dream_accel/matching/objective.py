"""Objectives: the protocol of everything that can be matched, and the sum of several."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

ClassGradients = Callable[[nn.Module, Mapping[str, Tensor], Tensor, bool], list[Tensor]]
"""``(network, parameters by name, images (C, n, ...), create_graph)`` to the gradients of every class, (C, *parameter)
each; the implementations are in :mod:`dream_accel.matching.class_gradients`."""

Target = Sequence[Any]
"""Tensors of the real side, without autograd history; nested where objectives are."""


class Match(NamedTuple):
    """The distance of every class, and what is needed to carry it to the pixels in one backward pass."""

    distance: Tensor
    """(C,) the distances, detached."""
    outputs: list[Tensor]
    """Tensors that depend on the synthetic images."""
    upstream: list[Tensor]
    """The derivative of the summed distance in each of them."""

    def pixel_gradient(self, pixels: Tensor) -> Tensor:
        """The derivative of the summed distance in ``pixels``, which the synthetic images were made from."""
        return torch.autograd.grad(self.outputs, pixels, grad_outputs=self.upstream)[0]


class Objective(Protocol):
    """Compares real and synthetic images of several classes through one network.

    The two sides are separate: a target depends on the real images alone, so it can be computed once and compared with
    many synthetic sets.
    """

    def target(self, network: nn.Module, real: Tensor, gradients: ClassGradients, /) -> Target:
        """Compute what the synthetic images are compared with from normalised real ones, (C, n, channels, H, W).

        ``gradients`` computes the parameter gradients of every class, for objectives that compare them.
        """
        ...

    def match(self, network: nn.Module, target: Target, synthetic: Tensor, gradients: ClassGradients, /) -> Match:
        """Compare normalised synthetic images, (C, m, channels, H, W), with a target."""
        ...

    def parameters(self, network: nn.Module, /) -> dict[str, Tensor]:
        """The parameters whose gradients are compared, by name; empty where none are."""
        ...


@dataclass(frozen=True)
class Sum:
    """The sum of several objectives."""

    terms: Sequence[Objective]

    def target(self, network: nn.Module, real: Tensor, gradients: ClassGradients) -> Target:
        """The target of every term, in order."""
        return [term.target(network, real, gradients) for term in self.terms]

    def match(self, network: nn.Module, target: Target, synthetic: Tensor, gradients: ClassGradients) -> Match:
        """Compare synthetic images with the target of every term."""
        matches = [term.match(network, own, synthetic, gradients) for term, own in zip(self.terms, target, strict=True)]
        return Match(
            torch.stack([match.distance for match in matches]).sum(dim=0),
            [output for match in matches for output in match.outputs],
            [upstream for match in matches for upstream in match.upstream],
        )

    def parameters(self, network: nn.Module) -> dict[str, Tensor]:
        """The parameters whose gradients any term compares, by name."""
        return {name: tensor for term in self.terms for name, tensor in term.parameters(network).items()}
