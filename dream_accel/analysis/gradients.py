"""Mean weight gradients of images of one class, without augmentation, summed in float64."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..data import DataSplit
from ..errors import DreamAccelError
from ..networks.batchnorm import frozen_statistics
from ..ops import select_layers

CHUNK = 256
"""Maximum number of images in a forward and backward pass."""


def matched_parameters(network: nn.Module, layers: str) -> list[Tensor]:
    """Return the parameters that a layer rule of :func:`dream_accel.gradient_distance` chooses.

    Raises:
        DreamAccelError: the network has none.
    """
    named = dict(network.named_parameters())
    values = list(named.values())
    chosen: list[Tensor] = [values[i] for i in select_layers(named, layers)]
    if not chosen:
        raise DreamAccelError(
            f"layers is {layers!r}, and {type(network).__name__} has no such parameters: use layers weights"
        )
    return chosen


def mean_gradient(network: nn.Module, parameters: list[Tensor], chunks: Iterable[Tensor], label: int) -> Tensor:
    """Compute the gradient of the mean cross-entropy of images of one class.

    ``1/n sum over images of d CE(network(image), label) / d parameters``. Batch norms use their running statistics.

    Args:
        network: a classifier.
        parameters: the parameters to differentiate by.
        chunks: images (n, channels, H, W) as the network takes them, at least one.
        label: their class.

    Returns:
        (P,) float64, the gradients of all parameters one after another.
    """
    total = torch.zeros((), dtype=torch.float64)
    n = 0
    with frozen_statistics(network):
        for images in chunks:
            labels = torch.full((len(images),), label, dtype=torch.int64, device=images.device)
            loss = F.cross_entropy(network(images), labels, reduction="sum")
            gradients = torch.autograd.grad(loss, parameters)
            total = total.to(images.device) + torch.cat([gradient.double().flatten() for gradient in gradients])
            n += len(images)
    return total / n


def real_gradient(network: nn.Module, parameters: list[Tensor], split: DataSplit, rows: Tensor, label: int) -> Tensor:
    """Compute :func:`mean_gradient` of training images.

    Args:
        network: a classifier.
        parameters: the parameters to differentiate by.
        split: the data set, whose constants normalise the images.
        rows: (n,) int64, images of class ``label``.
        label: the class.

    Returns:
        (P,) float64.
    """
    return mean_gradient(network, parameters, _normalised(split, rows), label)


def rows_of_class(split: DataSplit, label: int) -> Tensor:
    """Return the (n,) rows of the training images of one class."""
    order, offsets = split.train.by_class()
    return order[offsets[label] : offsets[label + 1]]


def _normalised(split: DataSplit, rows: Tensor) -> Iterator[Tensor]:
    for some in rows.split(CHUNK):
        yield split.normalization(split.train.batch(some))
