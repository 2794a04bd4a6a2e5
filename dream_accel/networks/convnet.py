"""ConvNet-D, the field's standard network (Gidaris and Komodakis, 2018; used by DC, DSA, DM, IDC, DREAM)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..errors import DreamAccelError


class ConvNet(nn.Module):
    """``depth`` blocks of 3x3 convolution, instance norm, ReLU and 2x2 average pooling, then one linear layer.

    Instance norm is ``GroupNorm(width, width)`` with affine parameters. 28x28 images are padded to 32x32 by the first
    convolution, as in the published code.

    Args:
        shape: (channels, height, width) of the images.
        n_classes: outputs.
        width: channels of every block.
        depth: number of blocks; each halves the image.

    Raises:
        DreamAccelError: the image has no pixel left before the last block.
    """

    def __init__(self, shape: tuple[int, int, int], n_classes: int, width: int = 128, depth: int = 3) -> None:
        super().__init__()
        channels, height, image_width = shape
        first_padding = 3 if (height, image_width) == (28, 28) else 1
        grown = 2 * (first_padding - 1)
        rows, columns = (height + grown) >> depth, (image_width + grown) >> depth
        if min(rows, columns) < 1:
            most = (min(height, image_width) + grown).bit_length() - 1
            remedy = f"use depth {most} or less" if most else "give images of 2x2 pixels or more, or scale them by size"
            raise DreamAccelError(f"{height}x{image_width} images vanish after {depth} halvings: {remedy}")
        blocks: list[nn.Module] = []
        for block in range(depth):
            blocks += [
                nn.Conv2d(channels, width, kernel_size=3, padding=1 if block else first_padding),
                nn.GroupNorm(width, width),
                nn.ReLU(),
                nn.AvgPool2d(2),
            ]
            channels = width
        self.features = nn.Sequential(*blocks)
        self.classifier = nn.Linear(width * rows * columns, n_classes)

    def embed(self, images: Tensor) -> Tensor:
        """The flattened last feature map (n, D) of images (n, channels, height, width)."""
        return torch.flatten(self.features(images), 1)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (n, n_classes) of images (n, channels, height, width)."""
        return self.classifier(self.embed(images))
