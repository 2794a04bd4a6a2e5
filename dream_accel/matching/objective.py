"""Objectives: the protocol that every matching loss implements, and the sum of several of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

ClassGradients = Callable[[nn.Module, Mapping[str, Tensor], Tensor, range, bool], list[Tensor]]
"""``(network, parameters by name, images (C * n, ...), labels of the C classes, create_graph)`` to the gradients of
every class, one tensor (C, *parameter) per parameter; the implementations are in
:mod:`dream_accel.matching.class_gradients`."""

Target = Sequence[Any]
"""Tensors computed from the real images, without autograd history; nested if objectives are nested."""


def map_tensors(function: Callable[..., Tensor], *targets: Target) -> Target:
    """Apply a function to the tensors at the same place of several targets.

    Args:
        function: takes one tensor of each target.
        targets: at least one; all nested alike.

    Returns:
        the results, nested as the targets are.
    """
    return [
        function(*parts) if isinstance(parts[0], Tensor) else map_tensors(function, *parts)
        for parts in zip(*targets, strict=True)
    ]


class Match(NamedTuple):
    """The distance of every class, with the tensors from which one backward pass computes the pixel gradient.

    The objective has already differentiated the distance by ``outputs``; the backward pass starts there.
    """

    distance: Tensor
    """(C,) the distances, without autograd history."""
    outputs: list[Tensor]
    """Tensors computed from the synthetic images, with autograd history."""
    upstream: list[Tensor]
    """The derivative of the summed distance with respect to each of the outputs, of the same shapes."""

    def pixel_gradient(self, pixels: Tensor) -> Tensor:
        """Compute the derivative of the summed distance with respect to the pixels.

        Args:
            pixels: the leaf tensor that the synthetic images were computed from.

        Returns:
            a tensor shaped like ``pixels``.
        """
        return torch.autograd.grad(self.outputs, pixels, grad_outputs=self.upstream)[0]


class Objective(Protocol):
    """A loss that compares real and synthetic images of several classes through one network.

    The two sides are computed separately: a target depends only on the real images, so it can be computed once and
    compared with many synthetic sets.
    """

    @property
    def real_side(self) -> str:
        """The content of a target in words; targets of objectives with the same words are interchangeable."""
        ...

    def target(self, network: nn.Module, real: Tensor, classes: range, gradients: ClassGradients, /) -> Target:
        """Compute from the real images what the synthetic images are compared with.

        Args:
            network: the network through which both sides are compared.
            real: (C * n, channels, H, W) real images, normalised, one class after another.
            classes: the labels of the C classes.
            gradients: computes the parameter gradients of every class, for objectives that compare them.

        Returns:
            the target, without autograd history.
        """
        ...

    def match(
        self, network: nn.Module, target: Target, synthetic: Tensor, classes: range, gradients: ClassGradients, /
    ) -> Match:
        """Compare synthetic images with a target.

        Args:
            network: the network that the target was computed with.
            target: the value of :meth:`target` for the same classes.
            synthetic: (C * m, channels, H, W) synthetic images, normalised, with autograd history.
            classes: as in :meth:`target`.
            gradients: as in :meth:`target`.

        Returns:
            the distance of every class, and its derivative with respect to tensors computed from ``synthetic``.
        """
        ...

    def reduced(self, target: Target, /) -> Target:
        """Return a target that matches alike and takes the least memory; (C, ...) tensors, linear in the images."""
        ...

    def parameters(self, network: nn.Module, /) -> dict[str, Tensor]:
        """Return the parameters whose gradients are compared, by name; empty if none are."""
        ...


@dataclass(frozen=True)
class Sum:
    """The sum of several objectives.

    Attributes:
        terms: the objectives; each applies its own weight.
    """

    terms: Sequence[Objective]

    @property
    def real_side(self) -> str:
        """Those of all terms."""
        return " and ".join(term.real_side for term in self.terms)

    def target(self, network: nn.Module, real: Tensor, classes: range, gradients: ClassGradients) -> Target:
        """Compute the target of every term, in order."""
        return [term.target(network, real, classes, gradients) for term in self.terms]

    def match(
        self, network: nn.Module, target: Target, synthetic: Tensor, classes: range, gradients: ClassGradients
    ) -> Match:
        """Compare the synthetic images with the target of every term and add the distances of each class."""
        matches = [
            term.match(network, own, synthetic, classes, gradients)
            for term, own in zip(self.terms, target, strict=True)
        ]
        return Match(
            torch.stack([match.distance for match in matches]).sum(dim=0),
            [output for match in matches for output in match.outputs],
            [upstream for match in matches for upstream in match.upstream],
        )

    def reduced(self, target: Target) -> Target:
        """Reduce the target of every term."""
        return [term.reduced(own) for term, own in zip(self.terms, target, strict=True)]

    def parameters(self, network: nn.Module) -> dict[str, Tensor]:
        """Return the parameters whose gradients any of the terms compares, by name."""
        return {name: tensor for term in self.terms for name, tensor in term.parameters(network).items()}
