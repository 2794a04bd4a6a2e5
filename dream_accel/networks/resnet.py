"""ResNets of basic blocks (He et al., 2016), with the stem for small images that DC and IDC use."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from .layers import check_size, norm_layer, scaled

LARGE = 128
"""The side from which images take the original stem, which reduces them four times, pixels."""


class ResNet10(nn.Module):
    """A stem, four stages of a basic block, of which three halve the image, the mean over pixels, a linear layer.

    The stem is a 3x3 convolution; images of 128x128 pixels and more have the original one, a 7x7 convolution and a
    pooling that reduce them four times.

    Args:
        shape: (channels, height, width) of the images.
        n_classes: outputs.
        width: 128 has the published 64, 128, 256 and 512 channels; others scale them.
        norm: a key of :data:`dream_accel.networks.layers.NORMS`; DC and IDC use instance and batch norm.

    Raises:
        DreamAccelError: images below 16x16 pixels, or there is no norm of that name.
    """

    NAME: ClassVar[str] = "resnet10"
    BLOCKS: ClassVar[tuple[int, ...]] = (1, 1, 1, 1)
    """Blocks of every stage."""
    POOLED: ClassVar[bool] = False
    """Halve by average pooling instead of strides."""

    def __init__(self, shape: tuple[int, int, int], n_classes: int, width: int = 128, norm: str = "instance") -> None:
        super().__init__()
        check_size(self.NAME, shape, 16)
        channels = scaled(64, width)
        blocks = [self._stem(shape, channels), norm_layer(norm, channels), nn.ReLU()]
        if min(shape[1:]) >= LARGE:
            blocks.append(nn.AvgPool2d(4) if self.POOLED else nn.MaxPool2d(3, stride=2, padding=1))
        for stage, count in enumerate(self.BLOCKS):
            for block in range(count):
                halve = stage > 0 and block == 0
                blocks.append(Block(channels, scaled(64 << stage, width), norm, halve, self.POOLED))
                channels = scaled(64 << stage, width)
        self.features = nn.Sequential(*blocks)
        self.classifier = nn.Linear(channels, n_classes)

    def _stem(self, shape: tuple[int, int, int], channels: int) -> nn.Conv2d:
        if min(shape[1:]) < LARGE:
            return nn.Conv2d(shape[0], channels, 3, padding=1, bias=False)
        return nn.Conv2d(shape[0], channels, 7, stride=1 if self.POOLED else 2, padding=3, bias=False)

    def embed(self, images: Tensor) -> Tensor:
        """The last feature maps' means (n, D) of images (n, channels, height, width)."""
        # Not an adaptive pooling, whose backward pass adds in any order on a GPU.
        return self.features(images).mean(dim=(2, 3))

    def forward(self, images: Tensor) -> Tensor:
        """Logits (n, n_classes) of images (n, channels, height, width)."""
        return self.classifier(self.embed(images))


class ResNet18(ResNet10):
    """ResNet-18: two blocks in every stage. Arguments as of :class:`ResNet10`."""

    NAME = "resnet18"
    BLOCKS = (2, 2, 2, 2)


class Block(nn.Module):
    """Two 3x3 convolutions with norms, added to the input or, where its size changes, to a 1x1 convolution of it.

    Args:
        channels: of the input.
        out: channels of the output.
        norm: a key of :data:`dream_accel.networks.layers.NORMS`.
        halve: whether the output has half the side.
        pooled: halve by average pooling instead of strides.
    """

    def __init__(self, channels: int, out: int, norm: str, halve: bool, pooled: bool) -> None:
        super().__init__()
        stride = 2 if halve and not pooled else 1
        pools = halve and pooled
        body = [nn.Conv2d(channels, out, 3, stride, 1, bias=False), norm_layer(norm, out), nn.ReLU()]
        body += [nn.AvgPool2d(2)] if pools else []
        self.body = nn.Sequential(*body, nn.Conv2d(out, out, 3, padding=1, bias=False), norm_layer(norm, out))
        self.shortcut = nn.Sequential()
        if halve or channels != out:
            projection = [nn.Conv2d(channels, out, 1, stride, bias=False), norm_layer(norm, out)]
            self.shortcut = nn.Sequential(*([nn.AvgPool2d(2)] if pools else []), *projection)
        self.activation = nn.ReLU()

    def forward(self, maps: Tensor) -> Tensor:
        """Feature maps (n, out, h, w) of feature maps (n, channels, H, W)."""
        return self.activation(self.body(maps) + self.shortcut(maps))
