"""The optimiser of the synthetic pixels."""

from __future__ import annotations

import torch
from torch import Tensor

SWEEPS = ("per_class", "joint")
"""The order in which the published loop updates the classes, and one joint update; see :class:`PixelSGD`."""

LR_RULES = ("scaled", "normalized")
"""``scaled``: the rate is multiplied by (IPC/10)(size/base)², as in IDC and DREAM. ``normalized``: it is the rate of an
optimiser of normalised images, as in DC, DSA and DM; a step ``lr g`` there is a step ``lr std² g`` of pixels."""


class PixelSGD:
    """SGD with momentum that updates the pixels of all classes at once.

    The published loop steps one optimiser after each class. The velocity v of a class therefore moves its pixels again,
    by ``momentum^j lr v``, during the steps of the other C-1 classes. The sum of that geometric series gives, in a
    single step, the pixels that the class has at its next turn (``"per_class"``)::

        v <- momentum^C v + g,    pixels <- pixels - lr v (1 - momentum^C) / (1 - momentum)

    ``"joint"`` takes one plain step along the gradient of the summed loss: C = 1 in the formula.

    Args:
        pixels: (C, IPC, channels, H, W) synthetic images, changed in place.
        lr: learning rate, or one per channel, (channels, 1, 1).
        momentum: momentum, 0 to 1.
        sweep: ``"per_class"`` or ``"joint"``.
        velocity: shaped like ``pixels``, changed in place; default: zeros.
        n_classes: the number of classes in a sweep, where these are a part of them; default: C.
    """

    def __init__(
        self,
        pixels: Tensor,
        lr: float | Tensor,
        momentum: float,
        sweep: str = "per_class",
        velocity: Tensor | None = None,
        n_classes: int | None = None,
    ) -> None:
        turns = (n_classes or len(pixels)) if sweep == "per_class" else 1
        self.pixels = pixels
        self.velocity = torch.zeros_like(pixels) if velocity is None else velocity
        self.decay = momentum**turns
        self.rate = lr * sum(momentum**j for j in range(turns))

    @torch.no_grad()
    def step(self, gradient: Tensor) -> None:
        """Take one step for every class along its gradient, which is shaped like the pixels."""
        self.velocity.mul_(self.decay).add_(gradient)
        if isinstance(self.rate, Tensor):
            self.pixels.addcmul_(self.velocity, self.rate, value=-1)
        else:
            self.pixels.sub_(self.velocity, alpha=self.rate)

    @torch.no_grad()
    def clamp(self) -> None:
        """Clamp the pixels to [0, 1], in place."""
        self.pixels.clamp_(0, 1)
