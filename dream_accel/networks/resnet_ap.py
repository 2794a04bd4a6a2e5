"""ResNetAP-10: ResNet-10 with average pooling instead of strides, the network of IDC and DREAM for ImageNet subsets."""

from __future__ import annotations

from .resnet import ResNet10


class ResNetAP10(ResNet10):
    """Blocks that halve the image do so by 2x2 average pooling, also on the shortcut.

    The stem for large images pools 4x4. Source: Kim et al., *Dataset Condensation via Efficient Synthetic-Data
    Parameterization*, ICML 2022. Arguments as of :class:`dream_accel.networks.resnet.ResNet10`.
    """

    NAME = "resnetap10"
    POOLED = True
