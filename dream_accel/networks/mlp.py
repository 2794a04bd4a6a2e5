"""The multilayer perceptron of DC's code (Zhao, Mopuri and Bilen, ICLR 2021): two hidden layers."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from .layers import activation_layer


class MLP(nn.Module):
    """Three linear layers with activations between them; it has no convolutions, so match layers ``weights``.

    Args:
        shape: (channels, height, width) of the images.
        n_classes: outputs.
        width: units of both hidden layers.
        activation: a key of :data:`dream_accel.networks.layers.ACTIVATIONS`.

    Raises:
        DreamAccelError: there is no activation of that name.
    """

    def __init__(self, shape: tuple[int, int, int], n_classes: int, width: int = 128, activation: str = "relu") -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Linear(math.prod(shape), width),
            activation_layer(activation),
            nn.Linear(width, width),
            activation_layer(activation),
        )
        self.classifier = nn.Linear(width, n_classes)

    def embed(self, images: Tensor) -> Tensor:
        """The second hidden layer (n, width) of images (n, channels, height, width)."""
        return self.features(torch.flatten(images, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Logits (n, n_classes) of images (n, channels, height, width)."""
        return self.classifier(self.embed(images))
