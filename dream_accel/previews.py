"""Previews: small copies of one synthetic image per class along a run, within a budget of bytes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

PREVIEW_BYTES = 4 << 20
"""Most bytes that the copies of a run take together."""
PREVIEW_SIDE = 64
"""Images are averaged to about this side, pixels, if they are larger."""
FEWEST_TIMES = 16
"""The number of classes is limited so that at least this number of copies of each fits the budget."""


@dataclass(frozen=True)
class Previews:
    """The first synthetic image of each of the first classes, copied at some points of a run.

    Kept are the iterations that are a multiple of a spacing, and the last one. The spacing is the smallest power of two
    with which everything fits :data:`PREVIEW_BYTES`, so it depends on the number of iterations done alone, and a run
    that was interrupted ends with the copies of an unbroken one.

    Attributes:
        iterations: the numbers of completed outer iterations at which they were made, increasing.
        images: one (classes, channels, h, w) uint8 tensor on the CPU for each of them.
    """

    iterations: tuple[int, ...] = ()
    images: tuple[Tensor, ...] = ()

    def after(self, iteration: int, pixels: Tensor) -> Previews:
        """Return these copies and one of the images as they are, without those that no longer fit.

        Args:
            iteration: the number of completed outer iterations, above those copied before.
            pixels: (C, IPC, channels, H, W) floating point synthetic images; values are clamped to [0, 1].
        """
        copy = _copy(pixels)
        most = max(2, PREVIEW_BYTES // copy.nbytes)
        spacing = 1
        while iteration // spacing + 2 > most:
            spacing *= 2
        kept = [(at, image) for at, image in zip(self.iterations, self.images, strict=True) if at % spacing == 0]
        iterations, images = zip(*kept, (iteration, copy), strict=True)
        return Previews(iterations, images)


def _copy(pixels: Tensor) -> Tensor:
    """The first images of the first classes, small and in eight bits, on the CPU."""
    first = pixels[:, 0]
    factor = max(1, min(first.shape[-2:]) // PREVIEW_SIDE)
    each = first[0].numel() // factor**2
    first = first[: max(1, PREVIEW_BYTES // (FEWEST_TIMES * each))].float().clamp(0, 1)
    if factor > 1:
        first = avg_pool2d(first, factor)
    return (first * 255).round().to(torch.uint8).cpu()
