"""AlexNet (Krizhevsky, Sutskever and Hinton, 2012) in the form of DC's code for small images."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .layers import activation_layer, check_size, extra_padding, scaled


class AlexNet(nn.Module):
    """Five convolutions and three 2x2 max poolings without norms, then one linear layer.

    The strides of the original, which is made for 224x224 images, are left out.

    Args:
        shape: (channels, height, width) of the images; 28x28 is padded to 32x32.
        n_classes: outputs.
        width: 128 has the 128, 192, 256, 192 and 192 channels of DC's code; others scale them.
        activation: a key of :data:`dream_accel.networks.layers.ACTIVATIONS`.

    Raises:
        DreamAccelError: images below 8x8 pixels, or there is no activation of that name.
    """

    def __init__(self, shape: tuple[int, int, int], n_classes: int, width: int = 128, activation: str = "relu") -> None:
        super().__init__()
        check_size("alexnet", shape, 8)
        channels, *sides = shape
        extra = extra_padding(shape)
        blocks: list[nn.Module] = []
        for published, kernel, pooled in (
            (128, 5, True),
            (192, 5, True),
            (256, 3, False),
            (192, 3, False),
            (192, 3, True),
        ):
            padding = kernel // 2 + (0 if blocks else extra)
            blocks += [
                nn.Conv2d(channels, scaled(published, width), kernel, padding=padding),
                activation_layer(activation),
            ]
            blocks += [nn.MaxPool2d(2)] if pooled else []
            channels = scaled(published, width)
        self.features = nn.Sequential(*blocks)
        rows, columns = ((side + 2 * extra) // 8 for side in sides)
        self.classifier = nn.Linear(channels * rows * columns, n_classes)

    def embed(self, images: Tensor) -> Tensor:
        """The flattened last feature map (n, D) of images (n, channels, height, width)."""
        return torch.flatten(self.features(images), 1)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (n, n_classes) of images (n, channels, height, width)."""
        return self.classifier(self.embed(images))
