"""Gradient norms of single images, by which the paper compares sampling strategies."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from ..data import DataSplit
from ..networks.batchnorm import frozen_statistics
from ..recipes import Recipe
from .along_training import along_training
from .picking import Picker


def gradient_norms(network: nn.Module, images: Tensor, labels: Tensor, chunk_size: int = 64) -> Tensor:
    """Compute the norm of the cross-entropy gradient of every single image, over all parameters.

    ``|| d CE(network(image), label) / d parameters ||_2``. DREAM (Liu et al., ICCV 2023) compares central, boundary,
    random and representative picks by this norm: central images have small norms, boundary images large and scattered
    ones.

    Args:
        network: a classifier without batch statistics.
        images: (n, channels, H, W) as the network takes them.
        labels: (n,) int64 classes.
        chunk_size: number of images differentiated at a time; memory holds as many gradients of all parameters.

    Returns:
        (n,) float32 norms.
    """
    parameters = {name: parameter.detach() for name, parameter in network.named_parameters()}

    def loss(values: dict[str, Tensor], image: Tensor, label: Tensor) -> Tensor:
        return F.cross_entropy(functional_call(network, values, (image.unsqueeze(0),)), label.unsqueeze(0))

    def norm(image: Tensor, label: Tensor) -> Tensor:
        gradients = grad(loss)(parameters, image, label)
        return torch.stack([g.square().sum() for g in gradients.values()]).sum().sqrt()

    return vmap(norm, chunk_size=chunk_size)(images, labels)


@dataclass(frozen=True)
class PickNorm:
    """The gradient norm of one pick."""

    strategy: str
    trained: int
    """real images the network was trained on before"""
    label: int
    """the class"""
    rank: int
    """place in the batch of the class"""
    index: int
    """row of the training set"""
    norm: float
    share: float
    """the part of its class that is nearer to this pick than to the others, in the features they were picked in"""


def pick_norms(
    recipe: Recipe,
    split: DataSplit,
    *,
    strategies: tuple[str, ...] = ("central", "dream", "random", "boundary"),
    batch: int = 32,
    trained: tuple[int, ...] = (0, 10000),
) -> Iterator[PickNorm]:
    """Measure the gradient norm of every image that a strategy picks.

    Args:
        recipe: network, its training, K-Means and seed.
        split: the data set, on the device where gradients are computed.
        strategies: the strategies to compare.
        batch: images picked of a class.
        trained: real images the network is trained on before a measurement, ascending.

    Yields:
        the norm of every pick: by point of the training, strategy and class.

    Raises:
        DreamAccelError: a strategy is unknown, the batch is larger than a class, or a number is out of range.
    """
    picker = Picker(recipe, split, strategies, (batch,))
    for seen, network in along_training(recipe, split, trained):
        picker.embed(network)
        for strategy in strategies:
            picks, shares = picker.pick(strategy, batch), picker.shares(strategy, batch)
            for c, rows in enumerate(picks):
                images = split.normalization(split.train.batch(rows))
                with frozen_statistics(network):
                    norms = gradient_norms(network, images, torch.full_like(rows, c))
                own = zip(rows.tolist(), norms.tolist(), shares[c].tolist(), strict=True)
                for rank, (index, norm, share) in enumerate(own):
                    yield PickNorm(strategy, seen, c, rank, index, norm, share)
