"""VGG-11 (Simonyan and Zisserman, 2015) in the form of DC's code: a norm after every convolution, one linear layer."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .layers import activation_layer, check_size, extra_padding, norm_layer, scaled

STAGES = ((64,), (128,), (256, 256), (512, 512), (512, 512))
"""Channels of the convolutions before each of the five poolings."""


class VGG11(nn.Module):
    """Eight 3x3 convolutions in five stages, each of which ends in 2x2 max pooling.

    Args:
        shape: (channels, height, width) of the images; 28x28 is padded to 32x32.
        n_classes: outputs.
        width: 128 has the published 64 to 512 channels; others scale them.
        norm: a key of :data:`dream_accel.networks.layers.NORMS`.
        activation: a key of :data:`dream_accel.networks.layers.ACTIVATIONS`.

    Raises:
        DreamAccelError: images below 32x32 pixels other than 28x28, or a layer has no such name.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        n_classes: int,
        width: int = 128,
        norm: str = "instance",
        activation: str = "relu",
    ) -> None:
        super().__init__()
        channels, *sides = shape
        extra = extra_padding(shape)
        if not extra:
            check_size("vgg11", shape, 32)
        blocks: list[nn.Module] = []
        for stage in STAGES:
            for published in stage:
                blocks += [
                    nn.Conv2d(channels, scaled(published, width), 3, padding=1 + (0 if blocks else extra)),
                    norm_layer(norm, scaled(published, width)),
                    activation_layer(activation),
                ]
                channels = scaled(published, width)
            blocks.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*blocks)
        rows, columns = ((side + 2 * extra) // 32 for side in sides)
        self.classifier = nn.Linear(channels * rows * columns, n_classes)

    def embed(self, images: Tensor) -> Tensor:
        """The flattened last feature map (n, D) of images (n, channels, height, width)."""
        return torch.flatten(self.features(images), 1)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (n, n_classes) of images (n, channels, height, width)."""
        return self.classifier(self.embed(images))
