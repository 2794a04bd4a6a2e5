"""LeNet-5 (LeCun et al., 1998) in the form of DC's code: ReLU and max pooling."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .layers import activation_layer, check_size, extra_padding


class LeNet(nn.Module):
    """Two 5x5 convolutions with 2x2 max pooling, then linear layers of 120, 84 and ``n_classes`` units.

    Args:
        shape: (channels, height, width) of the images; 28x28 is padded to 32x32.
        n_classes: outputs.
        activation: a key of :data:`dream_accel.networks.layers.ACTIVATIONS`.

    Raises:
        DreamAccelError: images below 16x16 pixels, or there is no activation of that name.
    """

    def __init__(self, shape: tuple[int, int, int], n_classes: int, activation: str = "relu") -> None:
        super().__init__()
        check_size("lenet", shape, 16)
        channels, *sides = shape
        extra = extra_padding(shape)
        self.features = nn.Sequential(
            nn.Conv2d(channels, 6, kernel_size=5, padding=extra),
            activation_layer(activation),
            nn.MaxPool2d(2),
            nn.Conv2d(6, 16, kernel_size=5),
            activation_layer(activation),
            nn.MaxPool2d(2),
        )
        rows, columns = (((side + 2 * extra - 4) // 2 - 4) // 2 for side in sides)
        self.hidden = nn.Sequential(
            nn.Linear(16 * rows * columns, 120),
            activation_layer(activation),
            nn.Linear(120, 84),
            activation_layer(activation),
        )
        self.classifier = nn.Linear(84, n_classes)

    def embed(self, images: Tensor) -> Tensor:
        """The last hidden layer (n, 84) of images (n, channels, height, width)."""
        return self.hidden(torch.flatten(self.features(images), 1))

    def forward(self, images: Tensor) -> Tensor:
        """Logits (n, n_classes) of images (n, channels, height, width)."""
        return self.classifier(self.embed(images))
