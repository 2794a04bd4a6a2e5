"""Networks, by name, with weights drawn from a random stream of their own."""

from __future__ import annotations

import torch
from torch import nn

from ..errors import choices
from ..random import derive_seed
from .convnet import ConvNet
from .initialization import initialize

NETWORKS = {"convnet": ConvNet}
"""Names of networks, as ``recipe.network`` gives them, with their classes: one file per network.

A class is constructed with ``(shape, n_classes, width=, depth=)`` and has ``embed(images)``, (n, D) features, beside
``forward(images)``, (n, n_classes) logits.
"""


def make_network(
    name: str, shape: tuple[int, int, int], n_classes: int, width: int, depth: int, seed: int, *keys: object
) -> nn.Module:
    """Make a network on the CPU, its weights drawn from a random stream of their own.

    Args:
        name: one of ``NETWORKS``.
        shape: (channels, height, width) of the images.
        n_classes: outputs.
        width: channels of each block.
        depth: number of blocks.
        seed: together with ``keys``, names the draw of the weights.
        keys: numbers and strings, such as the outer iteration.

    Raises:
        DreamAccelError: an unknown name, or images too small for the depth.
    """
    if name not in NETWORKS:
        raise choices("network", name, NETWORKS)
    # PyTorch's modules draw weights as they are made, which must not move the caller's random stream.
    with torch.random.fork_rng(devices=[]):
        network = NETWORKS[name](shape, n_classes, width=width, depth=depth)
    return initialize(network, derive_seed(seed, "network", *keys))


__all__ = ["NETWORKS", "ConvNet", "initialize", "make_network"]
