"""ConvNet-D, the field's standard network (Gidaris and Komodakis, 2018; used by DC, DSA, DM, IDC, DREAM)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..errors import DreamAccelError
from .layers import activation_layer, extra_padding, norm_layer, pooling_layer


class ConvNet(nn.Module):
    """``depth`` blocks of 3x3 convolution, norm, activation and 2x2 pooling, then one linear layer.

    Instance norm is ``GroupNorm(width, width)`` with affine parameters. 28x28 images are padded to 32x32 by the first
    convolution, as in the published code.

    Args:
        shape: (channels, height, width) of the images.
        n_classes: outputs.
        width: channels of every block.
        depth: number of blocks; each halves the image, unless ``pooling`` is ``"none"``.
        norm: a key of :data:`dream_accel.networks.layers.NORMS`.
        activation: a key of :data:`dream_accel.networks.layers.ACTIVATIONS`.
        pooling: a key of :data:`dream_accel.networks.layers.POOLINGS`.

    Raises:
        DreamAccelError: the image has no pixel left before the last block, or a layer has no such name.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        n_classes: int,
        width: int = 128,
        depth: int = 3,
        norm: str = "instance",
        activation: str = "relu",
        pooling: str = "avg",
    ) -> None:
        super().__init__()
        channels, height, image_width = shape
        extra = extra_padding(shape)
        halvings = 0 if pooling == "none" else depth
        rows, columns = (height + 2 * extra) >> halvings, (image_width + 2 * extra) >> halvings
        if min(rows, columns) < 1:
            most = (min(height, image_width) + 2 * extra).bit_length() - 1
            remedy = f"use depth {most} or less" if most else "give images of 2x2 pixels or more, or scale them by size"
            raise DreamAccelError(f"{height}x{image_width} images vanish after {depth} halvings: {remedy}")
        blocks: list[nn.Module] = []
        for block in range(depth):
            blocks += [
                nn.Conv2d(channels, width, kernel_size=3, padding=1 if block else 1 + extra),
                norm_layer(norm, width),
                activation_layer(activation),
                pooling_layer(pooling),
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
