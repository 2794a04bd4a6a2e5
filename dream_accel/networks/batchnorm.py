"""Batch norm in matching: statistics set from real images, and kept while gradients are compared.

A synthetic class may have a single image, whose statistics are no estimate of anything. As in DC's code (Zhao, Mopuri
and Bilen, ICLR 2021), a forward pass of real images of all classes sets the statistics of every batch-norm layer before
matching, and both sides are then normalised by them. DC's code moves running statistics a tenth of the way; here they
become those of the real images.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..errors import DreamAccelError

IMAGES_PER_CLASS = 16
"""Real images of every class that statistics are computed from, as in DC's code."""
IMAGES_AT_MOST = 1024
"""Images of that forward pass at most, where there are many classes; it bounds the memory."""


def batch_norms(network: nn.Module) -> list[_BatchNorm]:
    """The batch-norm layers of a network that keep running statistics, and so can be frozen."""
    layers = [module for module in network.modules() if isinstance(module, _BatchNorm)]
    return [layer for layer in layers if layer.running_mean is not None]


def refuse_statistics(network: nn.Module) -> None:
    """Refuse a network whose batch norms keep statistics, which a trajectory of parameters does not contain.

    Raises:
        DreamAccelError: the network has such a layer.
    """
    if batch_norms(network):
        raise DreamAccelError(
            "trajectories are parameters, and batch norm also keeps statistics, which they do not contain: choose the "
            "norm instance, group or layer"
        )


@contextmanager
def frozen_statistics(network: nn.Module) -> Iterator[None]:
    """Normalise by the running statistics, which stay as they are; layers return to their own mode at the end."""
    training = [layer for layer in batch_norms(network) if layer.training]
    for layer in training:
        layer.training = False
    try:
        yield
    finally:
        for layer in training:
            layer.training = True


@torch.no_grad()
def set_statistics(network: nn.Module, images: Tensor) -> None:
    """Set the running statistics of every batch-norm layer to those of images.

    Args:
        network: changed in place; one without batch norm is not run.
        images: (n, channels, H, W) as the network takes them.
    """
    layers = batch_norms(network)
    if not layers:
        return
    before = [(layer.momentum, layer.training) for layer in layers]
    for layer in layers:
        layer.momentum, layer.training = 1.0, True
    try:
        network(images)
    finally:
        for layer, (momentum, training) in zip(layers, before, strict=True):
            layer.momentum, layer.training = momentum, training


def rows_of_all_classes(order: Tensor, offsets: Tensor, draws: torch.Generator) -> Tensor:
    """Draw the real images that statistics are computed from.

    Args:
        order: (N,) int64 rows sorted by class, as :meth:`dream_accel.data.ImageSet.by_class` returns them.
        offsets: (C+1,) int64; where the rows of each class begin in ``order``.
        draws: the random stream, on the device of the rows.

    Returns:
        (C * k,) int64 rows, k of every class, with replacement.
    """
    counts = offsets.diff().unsqueeze(1)
    k = max(1, min(IMAGES_PER_CLASS, IMAGES_AT_MOST // len(counts)))
    places = (torch.rand(len(counts), k, generator=draws, device=order.device) * counts).long()
    # A product may round up to the count.
    return order[offsets[:-1].unsqueeze(1) + torch.minimum(places, counts - 1)].flatten()


@contextmanager
def several_values() -> Iterator[None]:
    """The refusal of a training batch from which a norm computes statistics of one value.

    Raises:
        DreamAccelError: in place of PyTorch's error.
    """
    try:
        yield
    except ValueError as error:
        if isinstance(error, DreamAccelError) or "more than 1 value per channel" not in str(error):
            raise
        raise DreamAccelError(
            "batch norm is trained on a batch with one value per channel, which has no variance: choose a batch size "
            "(network_batch, synthetic_batch or eval_batch) that leaves no single image over, or another norm"
        ) from None
