"""Gradient norms of single images, by which the paper compares sampling strategies."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap


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
