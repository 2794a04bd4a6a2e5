"""DenseNet-121 (Huang et al., 2017): torchvision's blocks, with a stem for small images and a norm by name."""

from __future__ import annotations

from torch import Tensor, nn

from .layers import check_size, norm_layer, scaled
from .resnet import LARGE


class DenseNet121(nn.Module):
    """Dense blocks of 6, 12, 24 and 16 layers with halving transitions, the mean over pixels, a linear layer.

    Images below 128x128 pixels have a stem of one 3x3 convolution instead of the original one, which reduces them four
    times.

    Args:
        shape: (channels, height, width) of the images.
        n_classes: outputs.
        width: 128 has the published growth rate of 32; others scale it.
        norm: a key of :data:`dream_accel.networks.layers.NORMS`; the original has batch norm.

    Raises:
        DreamAccelError: images below 16x16 pixels, or there is no norm of that name.
    """

    def __init__(self, shape: tuple[int, int, int], n_classes: int, width: int = 128, norm: str = "instance") -> None:
        # Here, because torchvision takes long to import.
        from torchvision.models import DenseNet

        super().__init__()
        check_size("densenet121", shape, 16)
        growth = scaled(32, width)
        made = DenseNet(growth, (6, 12, 24, 16), 2 * growth, num_classes=n_classes)
        self.features: nn.Module = made.features
        if min(shape[1:]) < LARGE:
            made.features.conv0 = nn.Conv2d(shape[0], 2 * growth, 3, padding=1, bias=False)
            made.features.pool0 = nn.Identity()
        else:
            made.features.conv0 = nn.Conv2d(shape[0], 2 * growth, 7, stride=2, padding=3, bias=False)
        _replace_layers(made.features, norm)
        self.activation = nn.ReLU()
        self.classifier: nn.Module = made.classifier

    def embed(self, images: Tensor) -> Tensor:
        """The last feature maps' means (n, D) of images (n, channels, height, width)."""
        return self.activation(self.features(images)).mean(dim=(2, 3))

    def forward(self, images: Tensor) -> Tensor:
        """Logits (n, n_classes) of images (n, channels, height, width)."""
        return self.classifier(self.embed(images))


def _replace_layers(module: nn.Module, norm: str) -> None:
    """Put the norm in the place of batch norms, and activations that are not in place in that of those which are."""
    for name, child in list(module.named_children()):
        if isinstance(child, nn.BatchNorm2d):
            setattr(module, name, norm_layer(norm, child.num_features))
        elif isinstance(child, nn.ReLU):
            setattr(module, name, nn.ReLU())
        else:
            _replace_layers(child, norm)
