"""Trajectory matching: parameters after training on the synthetic set brought to those of an expert (MTT)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from ..augment import Augmentation
from ..random import derive_seed
from ..synthetic import decode


@dataclass(frozen=True)
class TrajectoryMatching:
    """The distance between a student and an expert in the space of their parameters.

    With the flattened parameters theta of the student after N steps on the synthetic set, and theta* of the expert at
    epoch t, where the student began, and at epoch t + M::

        |theta - theta*_{t+M}|^2 / |theta*_t - theta*_{t+M}|^2

    A student that does not move has distance 1. Source: MTT, Cazenavette et al., CVPR 2022.
    """

    def distance(self, student: Tensor, start: Tensor, target: Tensor) -> Tensor:
        """Compute the distance () of parameters ``student``, ``start`` and ``target``, each (P,)."""
        return (student - target).square().sum() / (start - target).square().sum()

    def parameters(self, network: nn.Module) -> dict[str, Tensor]:
        """Return an empty dict, since no gradients are compared."""
        return {}


class TrajectoryGradients(NamedTuple):
    """The distance of one step with its derivatives, without autograd history."""

    distance: Tensor
    """() the distance."""
    pixels: Tensor
    """The derivative with respect to the pixels, of their shape."""
    log_step_size: Tensor
    """() the derivative with respect to the logarithm of the step size."""


class TrajectoryStep:
    """Trains a student on the synthetic set and differentiates its distance from the expert through the training.

    The N steps of the student are plain SGD on augmented, normalised batches::

        theta_{i+1} = theta_i - alpha grad CE(theta_i; augment(batch_i))

    They are unrolled: the memory is that of N forward and backward passes. The step never waits for the device, so it
    can be recorded as a CUDA graph. The augmentation draws from ``draws``.

    Args:
        objective: the distance of student and expert.
        augment: names for :class:`dream_accel.augment.Augmentation`, one draw per image and step.
        normalize: applied to images after augmentation.
        factor: multi-formation factor of the synthetic set.
        device: the device of the images and of the random stream.
        channels_last: whether images are in the channels_last memory format.

    Attributes:
        draws: the generator of the augmentation; the step keeps the object, because a graph records it.
    """

    def __init__(
        self,
        objective: TrajectoryMatching,
        augment: str,
        normalize: Callable[[Tensor], Tensor],
        factor: int,
        device: torch.device,
        channels_last: bool = False,
    ) -> None:
        self.objective = objective
        self.augment = Augmentation(augment)
        self.normalize = normalize
        self.factor = factor
        self.channels_last = channels_last
        self.draws = torch.Generator(device)

    def restart(self, seed: int, *keys: object) -> None:
        """Begin the random stream that ``seed`` and ``keys`` name."""
        self.draws.manual_seed(derive_seed(seed, "student", *keys))

    def __call__(
        self, network: nn.Module, start: Tensor, target: Tensor, rows: Tensor, pixels: Tensor, log_step_size: Tensor
    ) -> TrajectoryGradients:
        """Compute the distance and its derivatives.

        Args:
            network: the architecture; its own parameters are neither read nor changed.
            start: (P,) the parameters of the expert at epoch t, flattened one after another in the order of
                ``network.named_parameters()``.
            target: (P,) those at epoch t + M.
            rows: (N, b) int64, the decoded synthetic images of every step of the student.
            pixels: (C, IPC, channels, H, W) synthetic images in [0, 1].
            log_step_size: () the logarithm of the student's step size.

        Returns:
            the distance and its derivatives with respect to the pixels and to ``log_step_size``.
        """
        pixels = pixels.detach().requires_grad_()
        log_step_size = log_step_size.detach().requires_grad_()
        student = self.train(network, start, rows, pixels, log_step_size.exp())
        distance = self.objective.distance(student, start, target)
        gradients = torch.autograd.grad(distance, [pixels, log_step_size])
        return TrajectoryGradients(distance.detach(), *gradients)

    def train(self, network: nn.Module, start: Tensor, rows: Tensor, pixels: Tensor, step_size: Tensor) -> Tensor:
        """Train the student; arguments are those of a call, with the step size () itself.

        Returns:
            (P,) its parameters, differentiable with respect to ``pixels`` and ``step_size``.
        """
        images = decode(pixels.flatten(0, 1), self.factor)
        per_class = len(images) // len(pixels)
        student = start.detach().requires_grad_()
        for batch in rows.unbind():
            logits = functional_call(network, unflattened(student, network), (self._prepared(images[batch]),))
            loss = F.cross_entropy(logits, batch // per_class)
            gradient = torch.autograd.grad(loss, student, create_graph=True)[0]
            student = student - step_size * gradient
        return student

    def _prepared(self, images: Tensor) -> Tensor:
        images = self.normalize(self.augment(images, self.draws))
        return images.contiguous(memory_format=torch.channels_last) if self.channels_last else images


def unflattened(parameters: Tensor, network: nn.Module) -> dict[str, Tensor]:
    """Views of flattened parameters (P,) as the parameters of a network, by name."""
    shapes = {name: tensor.shape for name, tensor in network.named_parameters()}
    parts = parameters.split([shape.numel() for shape in shapes.values()])
    return {name: part.view(shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}


class StepSize:
    """The step size of the student, learned by SGD with momentum through its logarithm, so that it stays positive.

    With s the logarithm of the step size alpha and v the velocity::

        v <- momentum v + dL/ds,    s <- s - (lr / start^2) v

    Since ``dL/ds = alpha dL/dalpha``, the first step is that of SGD on alpha with the rate ``lr`` up to the second
    order of the change, so that published rates keep their meaning.

    Args:
        start: the initial step size, above 0.
        lr: learning rate of the step size itself.
        momentum: momentum, 0 to 1.
        device: the device of the state.
        state: (2,) as the attribute, copied; default: that of a new run.

    Attributes:
        state: (2,) float32, the logarithm of the step size and its velocity, changed in place.
    """

    def __init__(
        self, start: float, lr: float, momentum: float, device: torch.device, state: Tensor | None = None
    ) -> None:
        self.state = (torch.tensor([math.log(start), 0.0], dtype=torch.float32) if state is None else state.clone()).to(
            device
        )
        self.rate = lr / start**2
        self.momentum = momentum

    @property
    def logarithm(self) -> Tensor:
        """() the logarithm of the step size; a view of the state."""
        return self.state[0]

    @torch.no_grad()
    def step(self, gradient: Tensor) -> None:
        """Take one step along the derivative () with respect to the logarithm."""
        logarithm, velocity = self.state.unbind()
        velocity.mul_(self.momentum).add_(gradient)
        logarithm.sub_(velocity, alpha=self.rate)
