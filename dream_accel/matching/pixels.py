"""The optimiser of the synthetic pixels."""

from __future__ import annotations

import torch
from torch import Tensor

SWEEPS = ("per_class", "joint")


class PixelSGD:
    """SGD with momentum over all classes at once.

    The published loop steps one optimiser after each class, so a class's velocity v moves its pixels again, by
    ``momentum^j lr v``, during the other C-1 classes' steps. Summing that geometric series gives the same pixels at the
    class's next turn in one step (``"per_class"``)::

        v <- momentum^C v + g,    pixels <- pixels - lr v (1 - momentum^C) / (1 - momentum)

    ``"joint"`` is one plain step over the summed loss: C = 1 in the formula.

    Args:
        pixels: (C, IPC, channels, H, W), changed in place.
        lr: learning rate.
        momentum: 0 to 1.
        sweep: ``"per_class"`` or ``"joint"``.
        velocity: shaped like ``pixels``, changed in place; default: zeros.
    """

    def __init__(
        self, pixels: Tensor, lr: float, momentum: float, sweep: str = "per_class", velocity: Tensor | None = None
    ) -> None:
        turns = len(pixels) if sweep == "per_class" else 1
        self.pixels = pixels
        self.velocity = torch.zeros_like(pixels) if velocity is None else velocity
        self.decay = momentum**turns
        self.rate = lr * sum(momentum**j for j in range(turns))

    @torch.no_grad()
    def step(self, gradient: Tensor) -> None:
        """One step for every class along its own gradient, shaped like the pixels."""
        self.velocity.mul_(self.decay).add_(gradient)
        self.pixels.sub_(self.velocity, alpha=self.rate)

    @torch.no_grad()
    def clamp(self) -> None:
        """Keep pixels in [0, 1]."""
        self.pixels.clamp_(0, 1)
