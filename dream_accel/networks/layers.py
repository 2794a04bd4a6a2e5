"""The layers that networks choose by name, and what they share about the sizes of images and channels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from ..errors import DreamAccelError, choices

GROUPS = 4
"""Groups of the norm ``group``, as in DC's code."""


def _group_norm(channels: int) -> nn.Module:
    if channels % GROUPS:
        raise DreamAccelError(
            f"norm is 'group', which needs a multiple of {GROUPS} channels, and a layer has {channels}: choose another "
            "width or norm"
        )
    return nn.GroupNorm(GROUPS, channels)


NORMS: dict[str, Callable[[int], nn.Module]] = {
    "instance": lambda channels: nn.GroupNorm(channels, channels),
    "batch": nn.BatchNorm2d,
    "layer": lambda channels: nn.GroupNorm(1, channels),
    "group": _group_norm,
    "none": lambda channels: nn.Identity(),
}
"""Norms of ``channels`` feature maps, with affine parameters per channel.

``instance`` is ``GroupNorm(channels, channels)``, as in the code of DC, IDC and DREAM; ``layer`` is one group of all
channels, while DC's ``LayerNorm`` has affine parameters for every pixel.
"""

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "leakyrelu": lambda: nn.LeakyReLU(0.01),
    "sigmoid": nn.Sigmoid,
}
"""Activations. None works in place, which would change outputs that the class gradients keep."""

POOLINGS: dict[str, Callable[[], nn.Module]] = {
    "avg": lambda: nn.AvgPool2d(2),
    "max": lambda: nn.MaxPool2d(2),
    "none": nn.Identity,
}
"""Pooling layers, which halve a feature map or leave it."""


def layer(kind: str, table: dict[str, Callable[..., nn.Module]], name: str, *arguments: Any) -> nn.Module:
    """Make a layer of one of the tables above.

    Args:
        kind: the word for such a layer in a refusal.
        table: the table.
        name: a key of it.
        arguments: of the layer.

    Raises:
        DreamAccelError: an unknown name, or channels that the layer cannot split.
    """
    if name not in table:
        raise choices(kind, name, table)
    return table[name](*arguments)


def norm_layer(name: str, channels: int) -> nn.Module:
    """Make a norm of :data:`NORMS` for ``channels`` feature maps."""
    return layer("norm", NORMS, name, channels)


def activation_layer(name: str) -> nn.Module:
    """Make an activation of :data:`ACTIVATIONS`."""
    return layer("activation", ACTIVATIONS, name)


def pooling_layer(name: str) -> nn.Module:
    """Make a pooling of :data:`POOLINGS`."""
    return layer("pooling", POOLINGS, name)


PUBLISHED_WIDTH = 128
"""The width at which every network has its published number of channels."""


def scaled(channels: int, width: int) -> int:
    """Published channels at another width: ``channels * width / 128`` rounded, at least 1."""
    return max(1, round(channels * width / PUBLISHED_WIDTH))


def extra_padding(shape: tuple[int, int, int]) -> int:
    """Padding of the first convolution beyond its usual one: 2 for 28x28 images, which become 32x32 as published."""
    return 2 if shape[1:] == (28, 28) else 0


def check_size(name: str, shape: tuple[int, int, int], smallest: int) -> None:
    """Refuse images too small for a network.

    Args:
        name: the network.
        shape: (channels, height, width) of the images, padding included.
        smallest: the least side, pixels.

    Raises:
        DreamAccelError: a side is shorter.
    """
    if min(shape[1:]) < smallest:
        raise DreamAccelError(
            f"network {name!r} needs images of {smallest}x{smallest} pixels or more, and these are "
            f"{shape[1]}x{shape[2]}: use convnet, or scale the images by size"
        )
