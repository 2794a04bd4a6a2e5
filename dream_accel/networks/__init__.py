"""Networks, by name or import path, with weights drawn from a random stream of their own."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection

import torch
from torch import nn

from ..errors import DreamAccelError, choices
from ..random import derive_seed
from .alexnet import AlexNet
from .convnet import ConvNet
from .densenet import DenseNet121
from .imported import is_import_path, make_imported
from .initialization import initialize
from .lenet import LeNet
from .mlp import MLP
from .resnet import ResNet10, ResNet18
from .resnet_ap import ResNetAP10
from .vgg import VGG11

NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "convnet": ConvNet,
    "mlp": MLP,
    "lenet": LeNet,
    "alexnet": AlexNet,
    "vgg11": VGG11,
    "resnet10": ResNet10,
    "resnet18": ResNet18,
    "resnetap10": ResNetAP10,
    "densenet121": DenseNet121,
}
"""Names of networks, as ``recipe.network`` gives them, with their classes: one file per network.

A class is constructed with ``(shape, n_classes)`` and those of :data:`NETWORK_SETTINGS` that its constructor names. It
has ``embed(images)``, (n, D) features, beside ``forward(images)``, (n, n_classes) logits.
"""

NETWORK_SETTINGS = ("width", "depth", "norm", "activation", "pooling")
"""The settings that a network may read."""


def make_network(
    name: str,
    shape: tuple[int, int, int],
    n_classes: int,
    width: int,
    depth: int,
    seed: int,
    *keys: object,
    norm: str = "instance",
    activation: str = "relu",
    pooling: str = "avg",
) -> nn.Module:
    """Make a network on the CPU, its weights drawn from a random stream of their own.

    Settings that the network does not read are passed over; :func:`check_settings` refuses those that a user gave.

    Args:
        name: one of ``NETWORKS``, or the import path ``package.module:factory`` of a function that takes ``(shape,
            n_classes)`` and returns a network.
        shape: (channels, height, width) of the images.
        n_classes: outputs.
        width: channels of each block of the ConvNet; other networks have their published channels at 128.
        depth: number of blocks of the ConvNet.
        seed: together with ``keys``, names the draw of the weights.
        keys: numbers and strings, such as the outer iteration.
        norm: ``"instance"``, ``"batch"``, ``"layer"``, ``"group"`` (of 4 groups) or ``"none"``.
        activation: ``"relu"``, ``"leakyrelu"`` or ``"sigmoid"``.
        pooling: ``"avg"``, ``"max"`` or ``"none"``.

    Raises:
        DreamAccelError: an unknown name, images too small for the network, or an import path of which no network comes
            that a run can use.
    """
    settings = {"width": width, "depth": depth, "norm": norm, "activation": activation, "pooling": pooling}
    read = settings_read(name)
    # PyTorch's modules draw weights as they are made, which must not move the caller's random stream.
    with torch.random.fork_rng(devices=[]):
        if is_import_path(name):
            # Buffers that a factory draws are not redrawn later.
            torch.default_generator.manual_seed(derive_seed(seed, "factory"))
            network = make_imported(name, shape, n_classes)
        else:
            network = NETWORKS[name](shape, n_classes, **{key: settings[key] for key in read})
    return initialize(network, derive_seed(seed, "network", *keys))


def settings_read(name: str) -> tuple[str, ...]:
    """The settings of :data:`NETWORK_SETTINGS` that a network reads: those that its constructor names.

    Args:
        name: a network, as :func:`make_network` takes it; one of an import path reads none.

    Raises:
        DreamAccelError: an unknown name.
    """
    if is_import_path(name):
        return ()
    if name not in NETWORKS:
        raise unknown_network(name)
    parameters = inspect.signature(NETWORKS[name]).parameters
    return tuple(setting for setting in NETWORK_SETTINGS if setting in parameters)


def unknown_network(name: object) -> DreamAccelError:
    """Make the refusal of a name that is no network."""
    return choices("network", name, [*NETWORKS, "package.module:factory"])


def check_settings(name: str, given: Collection[str]) -> None:
    """Refuse settings that a user gave and the network does not read.

    Args:
        name: a network, as :func:`make_network` takes it.
        given: names of settings; those of other things than networks are passed over.

    Raises:
        DreamAccelError: an unknown network, or a setting that it does not read.
    """
    read = settings_read(name)
    for setting in NETWORK_SETTINGS:
        if setting in given and setting not in read:
            readers = [other for other in NETWORKS if setting in settings_read(other)]
            raise DreamAccelError(
                f"network {name!r} does not read {setting}: leave it out, or choose one of {', '.join(readers)}"
            )


__all__ = ["NETWORKS", "ConvNet", "initialize", "make_network"]
